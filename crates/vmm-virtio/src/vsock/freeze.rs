//! The state of a socket device on disk: what the guest must be told is over.

use serde::{Deserialize, Serialize};

use super::{
    Vsock,
    muxer::{CONNECTIONS_MAX, Muxer, PORT_FIRST, PORT_LAST, RESETS_MAX, Reset},
};
use crate::{Freeze, Registrar};

/// A socket device, frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenVsock {
    /// Connections the guest believes in, each as the guest's port and the host's.
    pub connections: Vec<(u32, u32)>,
    /// Port of the host's for the next connection, so that no clone reuses one its guest has not
    /// forgotten.
    pub next_port: u32,
}

/// Why frozen state of a socket device was refused.
#[derive(Debug, thiserror::Error)]
pub enum ThawVsockError {
    /// More connections than there can have been.
    #[error("the state has {0} connections, more than there can be")]
    TooMany(usize),
    /// A port of the host's outside its range.
    #[error("the state has port {0} on the host's side, where there is none")]
    Port(u32),
}

impl Freeze for Vsock {
    type Frozen = FrozenVsock;
    type Host = Registrar;
    type Error = ThawVsockError;

    fn freeze(&self) -> Self::Frozen {
        FrozenVsock {
            connections: self
                .muxer
                .owed_resets()
                .map(|reset| (reset.guest_port, reset.host_port))
                .collect(),
            next_port: self.muxer.next_port(),
        }
    }

    fn thaw(frozen: Self::Frozen, registrar: Self::Host) -> Result<Self, Self::Error> {
        let FrozenVsock { connections, next_port } = frozen;
        let most = CONNECTIONS_MAX.saturating_add(RESETS_MAX);
        if connections.len() > most {
            return Err(ThawVsockError::TooMany(connections.len()));
        }
        if !(PORT_FIRST..=PORT_LAST).contains(&next_port) {
            return Err(ThawVsockError::Port(next_port));
        }
        let resets = connections
            .into_iter()
            .map(|(guest_port, host_port)| Reset { guest_port, host_port })
            .collect();
        Ok(Vsock::with_muxer(Muxer::new(registrar, next_port, resets)))
    }
}
