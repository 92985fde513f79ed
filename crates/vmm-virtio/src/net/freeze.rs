//! The state of a network card on disk: what the guest was told of it. There are no frames in it.

use std::{io, os::fd::OwnedFd};

use serde::{Deserialize, Serialize};

use super::{Net, NetSettings};
use crate::{Freeze, Registrar};

/// A network card, frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenNet {
    /// Its address.
    pub mac: [u8; 6],
    /// The most bytes of a packet.
    pub mtu: u16,
}

/// What a network card needs of its surroundings.
#[derive(Debug)]
pub struct NetHost {
    /// What those at the other end take it for.
    pub settings: NetSettings,
    /// Where frames go to and come from: a connected `SOCK_SEQPACKET` socket.
    pub socket: OwnedFd,
    /// Takes the socket; the transport's own.
    pub registrar: Registrar,
}

/// Why frozen state of a network card was refused.
#[derive(Debug, thiserror::Error)]
pub enum ThawNetError {
    /// The snapshot is of a machine with another card.
    #[error("the network card of the snapshot is another one: {found:?}, not {expected:?}")]
    OtherCard {
        /// In the snapshot.
        found: FrozenNet,
        /// What cards are now.
        expected: FrozenNet,
    },
    /// The socket is not usable.
    #[error("use the socket of a network card")]
    Socket(#[source] io::Error),
}

impl Freeze for Net {
    type Frozen = FrozenNet;
    type Host = NetHost;
    type Error = ThawNetError;

    fn freeze(&self) -> Self::Frozen {
        let NetSettings { mac, mtu } = self.settings();
        FrozenNet { mac, mtu }
    }

    fn thaw(found: Self::Frozen, host: Self::Host) -> Result<Self, Self::Error> {
        let NetSettings { mac, mtu } = host.settings;
        let expected = FrozenNet { mac, mtu };
        if found != expected {
            return Err(ThawNetError::OtherCard { found, expected });
        }
        Net::new(host).map_err(ThawNetError::Socket)
    }
}
