//! The socket device: moves packets between its queues and the muxer.

use std::{collections::VecDeque, os::unix::net::UnixStream};

use super::{
    muxer::{ConnectError, Muxer, PORT_FIRST},
    packet::{DEVICE_ID, GUEST_CID, HEADER_BYTES, PacketHeader},
};
use crate::{Device, Events, GuestFault, MmioTransport, Queues, Registrar};

/// To the guest.
const RECEIVE_QUEUE: usize = 0;
/// From the guest.
const TRANSMIT_QUEUE: usize = 1;

/// LIMIT: packets moved in one direction before others get their turn: a full queue, so that with
/// the vCPUs stopped one turn takes everything the guest has sent.
const TURN_PACKETS_MAX: usize = 256;

/// Counters of a socket device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VsockStats {
    /// Connections open now.
    pub connections: u64,
    /// Connections the guest accepted.
    pub connected: u64,
    /// Connections the guest refused.
    pub refused: u64,
    /// Packets sent to the guest.
    pub to_guest_packets: u64,
    /// Data sent to the guest.
    pub to_guest_bytes: u64,
    /// Packets received from the guest.
    pub from_guest_packets: u64,
    /// Data received from the guest.
    pub from_guest_bytes: u64,
}

/// A virtio socket device.
#[derive(Debug)]
pub struct Vsock {
    pub(super) muxer: Muxer,
    stats: VsockStats,
}

impl Vsock {
    /// A device without connections. `registrar` takes the streams of connections; it is the
    /// transport's own.
    pub fn new(registrar: Registrar) -> Self {
        Vsock::with_muxer(Muxer::new(registrar, PORT_FIRST, VecDeque::new()))
    }

    pub(super) fn with_muxer(muxer: Muxer) -> Self {
        Vsock { muxer, stats: VsockStats::default() }
    }

    /// Counters since the device was made.
    pub fn stats(&self) -> VsockStats {
        VsockStats { connections: self.muxer.len() as u64, ..self.stats }
    }

    /// Sends while there is something to send and room for it.
    fn send(&mut self, queues: &mut Queues<'_>) -> Result<(), GuestFault> {
        let mut sent = 0_usize;
        while self.muxer.has_packets() {
            let Some(mut chain) = queues.pop(RECEIVE_QUEUE)? else {
                if queues.rearm(RECEIVE_QUEUE)? {
                    continue;
                }
                break;
            };
            let Some(written) = self.muxer.send(&mut chain.writable)? else {
                queues.put_back(RECEIVE_QUEUE);
                break;
            };
            self.stats.to_guest_packets = self.stats.to_guest_packets.saturating_add(1);
            let data = written.saturating_sub(HEADER_BYTES);
            self.stats.to_guest_bytes = self.stats.to_guest_bytes.saturating_add(data as u64);
            queues.complete(RECEIVE_QUEUE, chain.head, u32::try_from(written).unwrap_or(0))?;
            sent = sent.saturating_add(1);
            if sent >= TURN_PACKETS_MAX {
                queues.again(RECEIVE_QUEUE);
                break;
            }
        }
        if sent > 0 { queues.interrupt(RECEIVE_QUEUE) } else { Ok(()) }
    }

    /// Takes what the guest has sent.
    fn receive(&mut self, queues: &mut Queues<'_>) -> Result<(), GuestFault> {
        let mut received = 0_usize;
        'turn: loop {
            while let Some(chain) = queues.pop(TRANSMIT_QUEUE)? {
                let mut data = chain.readable;
                let mut header = [0; HEADER_BYTES];
                let read = data.read(&mut header);
                let header = header
                    .get(..read)
                    .and_then(PacketHeader::parse)
                    .ok_or(GuestFault::Request("a packet has no complete header"))?;
                let len = usize::try_from(header.len).unwrap_or(usize::MAX);
                if len > data.len() {
                    return Err(GuestFault::Request("a packet is longer than its buffers"));
                }
                let outcome = self.muxer.receive(&header, data.split_front(len));
                let stats = &mut self.stats;
                stats.from_guest_packets = stats.from_guest_packets.saturating_add(1);
                stats.from_guest_bytes = stats.from_guest_bytes.saturating_add(outcome.data_bytes);
                stats.connected = stats.connected.saturating_add(outcome.connected.into());
                stats.refused = stats.refused.saturating_add(outcome.refused.into());
                queues.complete(TRANSMIT_QUEUE, chain.head, 0)?;
                received = received.saturating_add(1);
                if received >= TURN_PACKETS_MAX {
                    queues.again(TRANSMIT_QUEUE);
                    break 'turn;
                }
            }
            if !queues.rearm(TRANSMIT_QUEUE)? {
                break;
            }
        }
        if received > 0 { queues.interrupt(TRANSMIT_QUEUE) } else { Ok(()) }
    }
}

impl Device for Vsock {
    const NAME: &'static str = "vsock";
    const DEVICE_ID: u32 = DEVICE_ID;
    /// Receive, transmit, and events, of which there are none: the guest's CID never changes.
    const QUEUE_SIZES: &'static [u16] = &[256, 256, 16];

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = GUEST_CID.to_le_bytes();
        let from = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
        data.iter_mut().zip(from.unwrap_or_default()).for_each(|(into, byte)| *into = *byte);
    }

    fn queue_event(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<(), GuestFault> {
        match queue {
            RECEIVE_QUEUE => self.send(queues),
            TRANSMIT_QUEUE => {
                self.receive(queues)?;
                self.send(queues)
            }
            // Buffers for events wait until there is one.
            _ => Ok(()),
        }
    }

    fn backend_event(
        &mut self,
        token: u32,
        events: Events,
        queues: &mut Queues<'_>,
    ) -> Result<(), GuestFault> {
        self.muxer.stream_event(token, events);
        self.send(queues)
    }

    fn reset(&mut self) {
        self.muxer.reset();
    }
}

impl MmioTransport<Vsock> {
    /// Splices a new connection to `port` of the guest onto `stream`. It may be opened before the
    /// guest runs, and is asked for when it does. When the guest refuses, resets or ends it, the
    /// stream is closed; whoever has its other end reads end of file.
    pub fn connect(&self, port: u32, stream: UnixStream) -> Result<(), ConnectError> {
        self.with(|vsock, _| vsock.muxer.connect(port, stream))?;
        self.serve(|vsock, queues| vsock.send(queues));
        if self.is_broken() {
            self.with(|vsock, _| vsock.muxer.clear());
            return Err(ConnectError::Broken);
        }
        Ok(())
    }
}
