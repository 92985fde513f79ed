//! The messages of each direction, and their numbers.

use crate::message::{
    As, Attach, Change, Connect, ConnectUnix, Control, Dropped, Entries, Exec, Exited, Failed,
    FileHead, Healthy, Identified, Identify, List, MakeDir, Mark, Move, Pack, Process, ReadFile,
    Remove, Resize, SetClock, Settle, Signal, Spawn, SpawnWithin, Started, Stat, StatAnswer,
    Unpack, Watch, WriteFile,
};
use crate::surface::frames;

frames! {
    /// What the host asks for: the first frame of a connection.
    pub enum Request {
        fields {
            /// See [`Identify`].
            Identify = 2,
            /// See [`SetClock`].
            SetClock = 3,
            /// See [`Exec`].
            Exec = 4,
            /// See [`ReadFile`].
            ReadFile = 5,
            /// See [`WriteFile`].
            WriteFile = 6,
            /// See [`List`].
            List = 7,
            /// See [`Stat`].
            Stat = 8,
            /// See [`MakeDir`].
            MakeDir = 9,
            /// See [`Move`].
            Move = 10,
            /// See [`Remove`].
            Remove = 11,
            /// See [`Settle`].
            Settle = 12,
            /// See [`Spawn`].
            Spawn = 13,
            /// See [`Attach`].
            Attach = 15,
            /// See [`Control`].
            Control = 16,
            /// See [`As`].
            As = 17,
            /// See [`Pack`].
            Pack = 18,
            /// See [`Unpack`].
            Unpack = 19,
            /// See [`Watch`].
            Watch = 20,
            /// See [`Connect`].
            Connect = 21,
            /// See [`ConnectUnix`].
            ConnectUnix = 22,
            /// See [`SpawnWithin`].
            SpawnWithin = 23,
        }
        empty {
            /// Asks whether the agent works.
            Health = 1,
            /// Asks for all processes started with [`Spawn`] that are still known.
            Processes = 14,
        }
        raw {}
    }
}

frames! {
    /// What the host sends after the request.
    pub enum Input {
        fields {
            /// See [`Signal`].
            Signal = 66,
            /// See [`Resize`].
            Resize = 69,
        }
        empty {
            /// Ends the command's standard input.
            CloseStdin = 65,
            /// The file is complete; nothing more comes for the process.
            End = 68,
        }
        raw {
            /// Data for the command's standard input.
            Stdin = 64,
            /// Data of the file, at its end so far.
            Chunk = 67,
        }
    }
}

frames! {
    /// What the guest answers.
    pub enum Answer {
        fields {
            /// See [`Started`].
            Started = 130,
            /// See [`Exited`].
            Exited = 133,
            /// See [`Healthy`].
            Healthy = 134,
            /// See [`Identified`].
            Identified = 135,
            /// See [`FileHead`].
            FileHead = 136,
            /// See [`Entries`].
            Entries = 139,
            /// See [`StatAnswer`].
            StatAnswer = 140,
            /// See [`Process`].
            Process = 141,
            /// See [`Mark`].
            Mark = 142,
            /// See [`Dropped`].
            Dropped = 143,
            /// See [`Change`].
            Change = 144,
            /// See [`Failed`].
            Failed = 129,
        }
        empty {
            /// Carried out; nothing to report.
            Done = 128,
            /// The file's data is complete.
            End = 138,
        }
        raw {
            /// What the command wrote to its standard output.
            Stdout = 131,
            /// What the command wrote to its standard error.
            Stderr = 132,
            /// Data of the file, going on from the chunk before.
            Chunk = 137,
        }
    }
}

impl Answer {
    /// Kind byte of [`Answer::Stdout`], for [`raw_header`](crate::raw_header).
    pub const STDOUT: u8 = 131;
    /// Kind byte of [`Answer::Stderr`], for [`raw_header`](crate::raw_header).
    pub const STDERR: u8 = 132;
    /// Kind byte of [`Answer::Chunk`], for [`raw_header`](crate::raw_header).
    pub const CHUNK: u8 = 137;
}
