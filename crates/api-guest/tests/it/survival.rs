use std::fmt::Debug;

use api_guest::{
    Answer, As, Attach, Change, ChangeKind, Control, Decoder, Dropped, Entries, Entry, Exec,
    Exited, FRAME_BYTES_MAX, FailCode, Failed, FileHead, FileKind, FileStat, FrameError, Healthy,
    Identified, Identify, Input, List, MakeDir, Mark, Message, Move, Pack, Process, ProcessBounds,
    PtySize, ReadFile, Remove, Request, Resize, SetClock, Settle, Signal, Spawn, SpawnWithin,
    Started, Stat, StatAnswer, Unpack, Watch, WriteFile, decode_all,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

fn text() -> impl Strategy<Value = String> {
    ".{0,40}"
}

fn stat() -> impl Strategy<Value = FileStat> {
    let numbers = (any::<u64>(), 0_u32..0o10000, any::<u32>(), any::<u32>(), any::<i64>());
    (select(FileKind::ALL), numbers, of(text()), of(text()), of(text())).prop_map(
        |(kind, (size, mode, uid, gid, modified_ns), user, group, link_target)| FileStat {
            kind,
            size,
            mode,
            uid,
            gid,
            user,
            group,
            modified_ns,
            link_target,
        },
    )
}

fn pty_size() -> impl Strategy<Value = PtySize> {
    (any::<u16>(), any::<u16>()).prop_map(|(rows, columns)| PtySize { rows, columns })
}

fn exited() -> impl Strategy<Value = Exited> {
    (of(any::<i32>()), of(any::<i32>()), any::<bool>())
        .prop_map(|(code, signal, timed_out)| Exited { code, signal, timed_out })
}

fn process() -> impl Strategy<Value = Process> {
    let facts = (any::<u32>(), of(any::<u32>()), vec(text(), 0..5), text(), text(), any::<bool>());
    let life = (any::<i64>(), of(any::<i64>()), of(exited()), any::<u64>());
    (facts, life).prop_map(|((id, pid, argv, user, cwd, pty), life)| {
        let (started_ns, ended_ns, exited, last_seq) = life;
        Process { id, pid, argv, user, cwd, pty, started_ns, ended_ns, exited, last_seq }
    })
}

fn exec() -> impl Strategy<Value = Exec> {
    (
        vec(text(), 0..5),
        vec((text(), text()), 0..5),
        of(text()),
        of(text()),
        of(any::<u64>()),
        any::<bool>(),
        of(pty_size()),
    )
        .prop_map(|(argv, env, cwd, user, time_limit_ms, stdin, pty)| Exec {
            argv,
            env,
            cwd,
            user,
            time_limit_ms,
            stdin,
            pty,
        })
}

fn identify() -> impl Strategy<Value = Identify> {
    (text(), text(), any::<[u8; 16]>(), any::<[u8; 16]>(), vec(any::<u8>(), 0..600), any::<i64>())
        .prop_map(|(sandbox_id, hostname, machine_id, boot_id, entropy, wall_clock_ns)| Identify {
            sandbox_id,
            hostname,
            machine_id,
            boot_id,
            entropy,
            wall_clock_ns,
        })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Health),
        identify().prop_map(Request::Identify),
        any::<i64>().prop_map(|wall_clock_ns| Request::SetClock(SetClock { wall_clock_ns })),
        exec().prop_map(Request::Exec),
        (text(), any::<u64>(), of(any::<u64>()))
            .prop_map(|(path, offset, length)| ReadFile { path, offset, length })
            .prop_map(Request::ReadFile),
        (text(), of(any::<u32>()), of(text()), any::<bool>())
            .prop_map(|(path, mode, user, parents)| WriteFile { path, mode, user, parents })
            .prop_map(Request::WriteFile),
        text().prop_map(|path| Request::List(List { path })),
        (text(), any::<bool>()).prop_map(|(path, follow)| Request::Stat(Stat { path, follow })),
        (text(), of(any::<u32>()), of(text()), any::<bool>())
            .prop_map(|(path, mode, user, parents)| MakeDir { path, mode, user, parents })
            .prop_map(Request::MakeDir),
        (text(), text()).prop_map(|(from, to)| Request::Move(Move { from, to })),
        (text(), any::<bool>())
            .prop_map(|(path, recursive)| Request::Remove(Remove { path, recursive })),
        any::<bool>().prop_map(|drop_caches| Request::Settle(Settle { drop_caches })),
        exec().prop_map(|exec| Request::Spawn(Spawn { exec })),
        (exec(), any::<u32>(), any::<u32>()).prop_map(|(exec, processes, output_kept_bytes)| {
            let bounds = ProcessBounds { processes, output_kept_bytes };
            Request::SpawnWithin(SpawnWithin { exec, bounds })
        }),
        Just(Request::Processes),
        (any::<u32>(), of(any::<u64>()))
            .prop_map(|(process, after)| Request::Attach(Attach { process, after })),
        any::<u32>().prop_map(|process| Request::Control(Control { process })),
        text().prop_map(|user| Request::As(As { user })),
        text().prop_map(|path| Request::Pack(Pack { path })),
        (text(), of(text())).prop_map(|(path, user)| Request::Unpack(Unpack { path, user })),
        (text(), any::<bool>())
            .prop_map(|(path, recursive)| Request::Watch(Watch { path, recursive })),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        vec(any::<u8>(), 0..2000).prop_map(Input::Stdin),
        Just(Input::CloseStdin),
        any::<i32>().prop_map(|number| Input::Signal(Signal { number })),
        vec(any::<u8>(), 0..2000).prop_map(Input::Chunk),
        Just(Input::End),
        pty_size().prop_map(|size| Input::Resize(Resize { size })),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let kind = of(select(FileKind::ALL));
    (any::<i64>(), select(ChangeKind::ALL), text(), of(text()), kind)
        .prop_map(|(at_ns, what, path, to, kind)| Change { at_ns, what, path, to, kind })
}

fn answer() -> impl Strategy<Value = Answer> {
    let entry = (text(), stat()).prop_map(|(name, stat)| Entry { name, stat });
    prop_oneof![
        Just(Answer::Done),
        (select(FailCode::ALL), text())
            .prop_map(|(code, message)| Answer::Failed(Failed { code, message })),
        any::<u32>().prop_map(|pid| Answer::Started(Started { pid })),
        vec(any::<u8>(), 0..2000).prop_map(Answer::Stdout),
        vec(any::<u8>(), 0..2000).prop_map(Answer::Stderr),
        exited().prop_map(Answer::Exited),
        change().prop_map(Answer::Change),
        process().prop_map(Answer::Process),
        (any::<u64>(), any::<i64>()).prop_map(|(seq, at_ns)| Answer::Mark(Mark { seq, at_ns })),
        any::<u64>().prop_map(|events| Answer::Dropped(Dropped { events })),
        (any::<u16>(), text(), any::<u64>(), any::<[u8; 16]>(), any::<i64>()).prop_map(
            |(generation, agent_version, uptime_ms, boot_id, wall_clock_ns)| {
                Answer::Healthy(Healthy {
                    generation,
                    agent_version,
                    uptime_ms,
                    boot_id,
                    wall_clock_ns,
                })
            }
        ),
        (any::<u16>(), any::<u32>())
            .prop_map(|(generation, took_us)| Identified { generation, took_us })
            .prop_map(Answer::Identified),
        stat().prop_map(|stat| Answer::FileHead(FileHead { stat })),
        vec(any::<u8>(), 0..2000).prop_map(Answer::Chunk),
        Just(Answer::End),
        vec(entry, 0..4).prop_map(|entries| Answer::Entries(Entries { entries })),
        stat().prop_map(|stat| Answer::StatAnswer(StatAnswer { stat })),
    ]
}

fn survives<M: Message + Debug + PartialEq>(messages: &[M], piece: usize) {
    let mut stream = Vec::new();
    for message in messages {
        message.encode_into(&mut stream).unwrap();
    }
    assert_eq!(decode_all::<M>(&stream, piece).unwrap(), messages);
}

proptest! {
    #[test]
    fn requests_survive_any_chunking(messages in vec(request(), 1..6), piece in 1_usize..5000) {
        survives(&messages, piece);
    }

    #[test]
    fn inputs_survive_any_chunking(messages in vec(input(), 1..6), piece in 1_usize..5000) {
        survives(&messages, piece);
    }

    #[test]
    fn answers_survive_any_chunking(messages in vec(answer(), 1..6), piece in 1_usize..5000) {
        survives(&messages, piece);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..3000), piece in 1_usize..400) {
        let _ = decode_all::<Request>(&bytes, piece);
        let _ = decode_all::<Input>(&bytes, piece);
        let _ = decode_all::<Answer>(&bytes, piece);
    }

    #[test]
    fn arbitrary_payloads_never_panic(kind in any::<u8>(), bytes in vec(any::<u8>(), 0..3000)) {
        // What decodes must encode again, though perhaps shorter: numbers have one short form.
        if let Ok(message) = Request::decode(kind, &bytes) {
            prop_assert_eq!(message.kind(), kind);
            survives(&[message], 7);
        }
        if let Ok(message) = Input::decode(kind, &bytes) {
            survives(&[message], 7);
        }
        if let Ok(message) = Answer::decode(kind, &bytes) {
            survives(&[message], 7);
        }
    }

    #[test]
    fn a_request_cut_short_or_made_longer_is_refused(message in request()) {
        let frame = message.encode().unwrap();
        let payload = &frame[5..];
        for end in 0..payload.len() {
            prop_assert!(Request::decode(message.kind(), &payload[..end]).is_err());
        }
        let longer = [payload, &[0]].concat();
        prop_assert!(matches!(
            Request::decode(message.kind(), &longer),
            Err(FrameError::Trailing(_))
        ));
    }
}

#[test]
fn the_largest_frame_survives_and_one_byte_more_is_refused() {
    survives(&[Input::Chunk(vec![7; FRAME_BYTES_MAX - 1])], 64 * 1024);
    let mut out = vec![1, 2, 3];
    let refused = Input::Chunk(vec![7; FRAME_BYTES_MAX]).encode_into(&mut out);
    assert!(matches!(refused, Err(FrameError::Length(_))));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn a_length_out_of_range_is_refused_before_its_bytes_arrive() {
    for length in [0, u32::try_from(FRAME_BYTES_MAX).unwrap() + 1, u32::MAX] {
        let mut decoder = Decoder::new();
        decoder.push(&length.to_le_bytes()).unwrap();
        assert!(matches!(decoder.take::<Request>(), Err(FrameError::Length(_))));
        assert!(matches!(decoder.push(b"more"), Err(FrameError::Refused)));
        assert!(matches!(decoder.take::<Request>(), Err(FrameError::Refused)));
    }
}

#[test]
fn a_decoder_nobody_takes_from_does_not_grow_without_bound() {
    let mut decoder = Decoder::new();
    let refused = (0..64).map(|_| decoder.push(&[1; 64 * 1024])).find_map(Result::err);
    assert!(matches!(refused, Some(FrameError::Overrun)));
}

#[test]
fn the_type_is_chosen_frame_by_frame() {
    let mut decoder = Decoder::new();
    decoder.push(&Request::Health.encode().unwrap()).unwrap();
    decoder.push(&Input::CloseStdin.encode().unwrap()).unwrap();
    assert_eq!(decoder.take().unwrap(), Some(Request::Health));
    assert!(!decoder.is_empty());
    assert_eq!(decoder.take().unwrap(), Some(Input::CloseStdin));
    assert!(decoder.is_empty());
    decoder.push(&Input::CloseStdin.encode().unwrap()).unwrap();
    assert!(matches!(decoder.take::<Request>(), Err(FrameError::Kind(65))));
}
