//! The network card: moves frames between its queues and its socket.

use std::{io, os::fd::OwnedFd};

use virtio_bindings::{
    virtio_ids::VIRTIO_ID_NET,
    virtio_net::{
        VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
        VIRTIO_NET_S_LINK_UP,
    },
};

use super::{
    NetHost,
    socket::{FrameSocket, SOCKET_TOKEN, Sent},
};
use crate::{Buffers, Chain, Device, Events, GuestFault, MmioTransport, Queues};

/// To the guest.
const RECEIVE_QUEUE: usize = 0;
/// From the guest.
const TRANSMIT_QUEUE: usize = 1;

/// Bytes before each frame in a queue: `virtio_net_hdr_v1` of the standard (virtio 1.2, 5.1.6).
pub const HEADER_BYTES: usize = 12;
/// Bytes of an Ethernet header: no frame has fewer.
pub const FRAME_BYTES_MIN: usize = 14;
/// LIMIT: buffers of the guest's that one frame fills. Linux has some of 1.5 KiB each; to a guest with
/// smaller ones the longest frames do not come.
pub const MERGED_MAX: usize = 64;
/// LIMIT: frames moved in one direction before others get their turn: a full queue, so that with the
/// vCPUs stopped one turn takes everything the guest has sent.
const TURN_FRAMES_MAX: usize = 256;

/// What a guest is told of its network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetSettings {
    /// Its address.
    pub mac: [u8; 6],
    /// The most bytes of a packet; a frame has [`FRAME_BYTES_MIN`] more.
    pub mtu: u16,
}

/// Counters of a network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Frames given to the guest.
    pub to_guest_frames: u64,
    /// Bytes of these.
    pub to_guest_bytes: u64,
    /// Frames that could not be given to the guest, as too long or too short ones.
    pub to_guest_lost: u64,
    /// Frames of the guest's that went to the socket.
    pub from_guest_frames: u64,
    /// Bytes of these.
    pub from_guest_bytes: u64,
    /// Frames of the guest's that were too long, too short, or nobody was there to take.
    pub from_guest_lost: u64,
}

/// A virtio network card.
#[derive(Debug)]
pub struct Net {
    settings: NetSettings,
    socket: FrameSocket,
    /// What was read last. One byte longer than a frame, for those that are too long.
    arriving: Box<[u8]>,
    /// How much of it is a frame the guest has no room for yet; 0 when there is none.
    waiting: usize,
    /// What is sent; as long as the other.
    leaving: Box<[u8]>,
    stats: NetStats,
}

impl Net {
    /// A card whose frames go to the socket of `host`, which is watched from now on.
    pub fn new(host: NetHost) -> io::Result<Self> {
        let NetHost { settings, socket, registrar } = host;
        let bytes = frame_bytes_max(settings).saturating_add(1);
        Ok(Net {
            settings,
            socket: FrameSocket::new(registrar, socket)?,
            arriving: vec![0; bytes].into(),
            waiting: 0,
            leaving: vec![0; bytes].into(),
            stats: NetStats::default(),
        })
    }

    /// What the guest is told of it.
    pub fn settings(&self) -> NetSettings {
        self.settings
    }

    /// Counters since the card was made.
    pub fn stats(&self) -> NetStats {
        self.stats
    }

    fn is_frame(&self, bytes: usize) -> bool {
        (FRAME_BYTES_MIN..=frame_bytes_max(self.settings)).contains(&bytes)
    }

    /// Gives frames to the guest while there are some and it has room.
    fn deliver(&mut self, queues: &mut Queues<'_>) -> Result<(), GuestFault> {
        let since = queues.used_position(RECEIVE_QUEUE);
        for _ in 0..TURN_FRAMES_MAX {
            if self.waiting == 0 && !self.read(queues)? {
                return queues.interrupt_since(RECEIVE_QUEUE, since);
            }
            if self.waiting > 0 && !self.place(queues)? {
                return queues.interrupt_since(RECEIVE_QUEUE, since);
            }
        }
        queues.again(RECEIVE_QUEUE);
        queues.interrupt_since(RECEIVE_QUEUE, since)
    }

    /// Reads a frame, unless there is none or the guest has no buffer at all: then it can wait where
    /// it is. Says whether something came, be it of no use.
    fn read(&mut self, queues: &mut Queues<'_>) -> Result<bool, GuestFault> {
        if !queues.has_chains(RECEIVE_QUEUE) && !queues.rearm(RECEIVE_QUEUE)? {
            return Ok(false);
        }
        let was_full = self.socket.is_full();
        let received = self.socket.receive(&mut self.arriving);
        if was_full && !self.socket.is_full() {
            // It turned out to be over, which is not an event any more.
            queues.again(TRANSMIT_QUEUE);
        }
        let Some(bytes) = received else { return Ok(false) };
        if self.is_frame(bytes) {
            self.waiting = bytes;
        } else {
            self.stats.to_guest_lost = self.stats.to_guest_lost.saturating_add(1);
        }
        Ok(true)
    }

    /// Puts the waiting frame into buffers of the guest's, all of it or nothing. Says whether it waits
    /// no more.
    fn place(&mut self, queues: &mut Queues<'_>) -> Result<bool, GuestFault> {
        let needed = self.waiting.saturating_add(HEADER_BYTES);
        let most = if queues.agreed(VIRTIO_NET_F_MRG_RXBUF) { MERGED_MAX } else { 1 };
        let (mut chains, mut room): (Vec<Chain<'_>>, _) = (Vec::new(), 0_usize);
        while room < needed && chains.len() < most {
            let Some(chain) = queues.pop(RECEIVE_QUEUE)? else {
                if queues.rearm(RECEIVE_QUEUE)? {
                    continue;
                }
                chains.iter().for_each(|_| queues.put_back(RECEIVE_QUEUE));
                return Ok(false);
            };
            if chain.writable.len() < HEADER_BYTES {
                return Err(GuestFault::Request("a receive buffer has no room for a header"));
            }
            room = room.saturating_add(chain.writable.len());
            chains.push(chain);
        }
        let bytes = std::mem::take(&mut self.waiting);
        if room < needed {
            chains.iter().for_each(|_| queues.put_back(RECEIVE_QUEUE));
            self.stats.to_guest_lost = self.stats.to_guest_lost.saturating_add(1);
            return Ok(true);
        }
        let filled = fill(chains, self.arriving.get(..bytes).unwrap_or_default());
        queues.complete_together(RECEIVE_QUEUE, &filled)?;
        self.stats.to_guest_frames = self.stats.to_guest_frames.saturating_add(1);
        self.stats.to_guest_bytes = self.stats.to_guest_bytes.saturating_add(bytes as u64);
        Ok(true)
    }

    /// Takes what the guest has sent, as long as the socket does.
    fn transmit(&mut self, queues: &mut Queues<'_>) -> Result<(), GuestFault> {
        let mut taken = 0_usize;
        'turn: while !self.socket.is_full() {
            while let Some(mut chain) = queues.pop(TRANSMIT_QUEUE)? {
                if !self.send(&mut chain.readable)? {
                    queues.put_back(TRANSMIT_QUEUE);
                    break 'turn;
                }
                queues.complete(TRANSMIT_QUEUE, chain.head, 0)?;
                taken = taken.saturating_add(1);
                if taken >= TURN_FRAMES_MAX {
                    queues.again(TRANSMIT_QUEUE);
                    break 'turn;
                }
            }
            if !queues.rearm(TRANSMIT_QUEUE)? {
                break;
            }
        }
        if taken > 0 { queues.interrupt(TRANSMIT_QUEUE) } else { Ok(()) }
    }

    /// Sends what is in `buffers`, header first. Says whether the guest is relieved of it.
    fn send(&mut self, buffers: &mut Buffers<'_>) -> Result<bool, GuestFault> {
        // What it asks for besides was not offered, so it asks for nothing.
        if buffers.skip(HEADER_BYTES) < HEADER_BYTES {
            return Err(GuestFault::Request("a frame has no complete header"));
        }
        let bytes = buffers.read(&mut self.leaving);
        let sent = match self.leaving.get(..bytes) {
            Some(frame) if self.is_frame(bytes) => self.socket.send(frame),
            _ => Sent::Lost,
        };
        let stats = &mut self.stats;
        match sent {
            Sent::Full => return Ok(false),
            Sent::Lost => stats.from_guest_lost = stats.from_guest_lost.saturating_add(1),
            Sent::Gone => {
                stats.from_guest_frames = stats.from_guest_frames.saturating_add(1);
                stats.from_guest_bytes = stats.from_guest_bytes.saturating_add(bytes as u64);
            }
        }
        Ok(true)
    }
}

fn frame_bytes_max(settings: NetSettings) -> usize {
    usize::from(settings.mtu).saturating_add(FRAME_BYTES_MIN)
}

/// Puts `frame`, with its header, into `chains`, which have room for it. Says how much is in each.
fn fill(chains: Vec<Chain<'_>>, frame: &[u8]) -> Vec<(u16, u32)> {
    let mut header = [0; HEADER_BYTES];
    // It asks for nothing and ends with how many buffers the frame fills.
    let [.., low, high] = &mut header;
    [*low, *high] = u16::try_from(chains.len()).unwrap_or(u16::MAX).to_le_bytes();
    let (mut header, mut frame) = (&header[..], frame);
    let filled = chains.into_iter().map(|mut chain| {
        let before = chain.writable.len();
        for left in [&mut header, &mut frame] {
            let written = chain.writable.write(left);
            *left = left.get(written..).unwrap_or_default();
        }
        let written = before.saturating_sub(chain.writable.len());
        (chain.head, u32::try_from(written).unwrap_or(u32::MAX))
    });
    filled.collect()
}

impl Device for Net {
    const NAME: &'static str = "net";
    const DEVICE_ID: u32 = VIRTIO_ID_NET;
    /// Receive and transmit.
    const QUEUE_SIZES: &'static [u16] = &[256, 256];

    fn features(&self) -> u64 {
        [VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS]
            .iter()
            .fold(0, |features, &bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 12];
        let [mac @ .., s0, s1, _, _, m0, m1] = &mut config;
        *mac = self.settings.mac;
        [*s0, *s1] = u16::try_from(VIRTIO_NET_S_LINK_UP).unwrap_or(0).to_le_bytes();
        [*m0, *m1] = self.settings.mtu.to_le_bytes();
        let from = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
        data.iter_mut().zip(from.unwrap_or_default()).for_each(|(into, byte)| *into = *byte);
    }

    fn queue_event(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), GuestFault> {
        match queue {
            RECEIVE_QUEUE => self.deliver(queues),
            _ => self.transmit(queues),
        }
    }

    fn backend_event(
        &mut self,
        token: u32,
        events: Events,
        queues: &mut Queues<'_>,
    ) -> Result<(), GuestFault> {
        if token != SOCKET_TOKEN {
            return Ok(());
        }
        let was_full = self.socket.is_full();
        self.socket.event(events);
        if was_full {
            self.transmit(queues)?;
        }
        self.deliver(queues)
    }

    fn reset(&mut self) {
        // It was for the driver that is gone.
        self.waiting = 0;
    }
}

impl MmioTransport<Net> {
    /// From now on frames go to and come from `socket`, and from no other. After an error nothing has
    /// changed.
    pub fn use_socket(&self, socket: OwnedFd) -> io::Result<()> {
        self.with(|net, _| {
            net.socket.replace(socket)?;
            // Whoever sent it is gone.
            net.waiting = 0;
            Ok::<_, io::Error>(())
        })?;
        self.serve(|net, queues| {
            net.transmit(queues)?;
            net.deliver(queues)
        });
        Ok(())
    }
}
