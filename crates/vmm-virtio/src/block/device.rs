//! The block device: takes requests from its queue and carries them out on its disk.

use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
        VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
    },
    virtio_ids::VIRTIO_ID_BLOCK,
};

use super::{
    Disk, DiskError,
    request::{
        HEADER_BYTES, ID_BYTES, RANGE_BYTES, RANGE_SECTORS_MAX, RANGES_MAX, Refusal, Request,
        SECTOR_BYTES, parse_range, parse_request,
    },
};
use crate::{Buffers, Chain, Device, Events, GuestFault, MmioTransport, Queues};

const QUEUE: usize = 0;

/// Data buffers of one request: the queue's entries without header and status.
const SEGMENTS_MAX: u32 = 254;

/// LIMIT: requests served before others get their turn: a full queue, so that with the vCPUs
/// stopped one turn serves everything.
const TURN_REQUESTS_MAX: usize = 256;

/// Counters of a block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Read requests that worked.
    pub reads: u64,
    /// Write requests that worked.
    pub writes: u64,
    /// Flush requests that worked.
    pub flushes: u64,
    /// Bytes read by the guest.
    pub read_bytes: u64,
    /// Bytes written by the guest.
    pub written_bytes: u64,
    /// Requests answered with an error.
    pub errors: u64,
}

/// A virtio block device.
#[derive(Debug)]
pub struct Block {
    pub(super) disk: Disk,
    pub(super) serial: [u8; ID_BYTES],
    stats: BlockStats,
    failure: Option<String>,
    last_failure: String,
}

impl Block {
    /// A device over `disk`. The guest sees the first 20 bytes of `serial`.
    pub fn new(disk: Disk, serial: &str) -> Self {
        let mut padded = [0; ID_BYTES];
        padded.iter_mut().zip(serial.bytes()).for_each(|(into, byte)| *into = byte);
        Block::with_serial(disk, padded)
    }

    pub(super) fn with_serial(disk: Disk, serial: [u8; ID_BYTES]) -> Self {
        let (stats, failure, last_failure) = Default::default();
        Block { disk, serial, stats, failure, last_failure }
    }

    /// Counters since the device was made.
    pub fn stats(&self) -> BlockStats {
        self.stats
    }

    /// The disk, to open it early.
    pub fn disk_mut(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Serves the request in `chain`; says how many bytes of the writable buffers were filled.
    fn serve(&mut self, chain: Chain<'_>) -> Result<u32, GuestFault> {
        let Chain { mut readable, writable: mut data_in, .. } = chain;
        let mut header = [0; HEADER_BYTES];
        if readable.read(&mut header) != HEADER_BYTES {
            return Err(GuestFault::Request("a disk request has no complete header"));
        }
        // The status is the last byte the guest wants filled.
        let Some(in_len) = data_in.len().checked_sub(1) else {
            return Err(GuestFault::Request("a disk request has no room for its status"));
        };
        let mut status_at = data_in;
        data_in = status_at.split_front(in_len);

        let request =
            parse_request(&header, readable.len() as u64, in_len as u64, self.disk.sectors());
        let outcome = match request {
            Ok(request) => self.carry_out(request, &mut readable, &mut data_in),
            Err(refusal) => Err(refusal),
        };
        let (status, filled) = match outcome {
            Ok(filled) => (VIRTIO_BLK_S_OK, filled),
            Err(refusal) => {
                self.stats.errors = self.stats.errors.saturating_add(1);
                match refusal {
                    Refusal::Io => (VIRTIO_BLK_S_IOERR, 0),
                    Refusal::Unsupported => (VIRTIO_BLK_S_UNSUPP, 0),
                }
            }
        };
        status_at.write(&[u8::try_from(status).unwrap_or(u8::MAX)]);
        Ok(u32::try_from(filled).unwrap_or(0).saturating_add(1))
    }

    /// Does what is asked; says how many bytes of `data_in` were filled.
    fn carry_out(
        &mut self,
        request: Request,
        data_out: &mut Buffers<'_>,
        data_in: &mut Buffers<'_>,
    ) -> Result<u64, Refusal> {
        let count = |counter: &mut u64, by: u64| *counter = counter.saturating_add(by);
        match request {
            Request::Read { offset, len } => {
                let result = self.disk.read(data_in, offset);
                self.judge(result)?;
                count(&mut self.stats.reads, 1);
                count(&mut self.stats.read_bytes, len);
                Ok(len)
            }
            Request::Write { offset, len } => {
                let result = self.disk.write(data_out, offset);
                self.judge(result)?;
                count(&mut self.stats.writes, 1);
                count(&mut self.stats.written_bytes, len);
                Ok(0)
            }
            Request::Flush => {
                let result = self.disk.flush();
                self.judge(result)?;
                count(&mut self.stats.flushes, 1);
                Ok(0)
            }
            Request::GetId => Ok(data_in.write(&self.serial) as u64),
            Request::Discard { ranges } => self.zero_ranges(ranges, data_out, 0, true),
            Request::WriteZeroes { ranges } => {
                self.zero_ranges(ranges, data_out, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, false)
            }
        }
    }

    fn zero_ranges(
        &mut self,
        ranges: usize,
        data_out: &mut Buffers<'_>,
        flags_allowed: u32,
        discard: bool,
    ) -> Result<u64, Refusal> {
        for _ in 0..ranges {
            let mut range = [0; RANGE_BYTES];
            if data_out.read(&mut range) != RANGE_BYTES {
                return Err(Refusal::Io);
            }
            let (offset, len) = parse_range(&range, flags_allowed, self.disk.sectors())?;
            let result = self.disk.zero(offset, len, discard);
            self.judge(result)?;
        }
        Ok(0)
    }

    /// Turns what failed on the host into an error for the guest, and remembers it for a report:
    /// once for each kind of failure in a row, as a guest retries for ever.
    fn judge(&mut self, result: Result<(), DiskError>) -> Result<(), Refusal> {
        match result {
            Ok(()) => {
                self.last_failure.clear();
                Ok(())
            }
            Err(error) => {
                let reason = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                if reason != self.last_failure {
                    self.last_failure.clone_from(&reason);
                    self.failure = Some(reason);
                }
                Err(Refusal::Io)
            }
        }
    }

    /// The configuration space, as `struct virtio_blk_config` lays it out.
    fn config(&self) -> [u8; 60] {
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| {
            config.iter_mut().skip(at).zip(bytes).for_each(|(into, byte)| *into = *byte);
        };
        put(0, &self.disk.sectors().to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &u32::try_from(SECTOR_BYTES).unwrap_or(0).to_le_bytes());
        // Topology: physical blocks of 8 sectors, as the host's page cache has them.
        put(24, &[3, 0, 8, 0]);
        let ranges_max = u32::try_from(RANGES_MAX).unwrap_or(1).to_le_bytes();
        put(36, &RANGE_SECTORS_MAX.to_le_bytes());
        put(40, &ranges_max);
        let cluster_sectors = base_overlay::CLUSTER_BYTES / SECTOR_BYTES;
        put(44, &u32::try_from(cluster_sectors).unwrap_or(1).to_le_bytes());
        put(48, &RANGE_SECTORS_MAX.to_le_bytes());
        put(52, &ranges_max);
        put(56, &[1]);
        config
    }
}

impl Device for Block {
    const NAME: &'static str = "block";
    const DEVICE_ID: u32 = VIRTIO_ID_BLOCK;
    const QUEUE_SIZES: &'static [u16] = &[256];

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_TOPOLOGY
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_DISCARD
            | 1 << VIRTIO_BLK_F_WRITE_ZEROES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let from = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
        data.iter_mut().zip(from.unwrap_or_default()).for_each(|(into, byte)| *into = *byte);
    }

    fn queue_event(&mut self, _queue: usize, queues: &mut Queues<'_>) -> Result<(), GuestFault> {
        let mut served = 0_usize;
        loop {
            while let Some(chain) = queues.pop(QUEUE)? {
                let head = chain.head;
                let written = self.serve(chain)?;
                queues.complete(QUEUE, head, written)?;
                served = served.saturating_add(1);
                if served >= TURN_REQUESTS_MAX {
                    queues.again(QUEUE);
                    return queues.interrupt(QUEUE);
                }
            }
            if !queues.rearm(QUEUE)? {
                break;
            }
        }
        if served > 0 { queues.interrupt(QUEUE) } else { Ok(()) }
    }

    fn backend_event(
        &mut self,
        _token: u32,
        _events: Events,
        _queues: &mut Queues<'_>,
    ) -> Result<(), GuestFault> {
        Ok(())
    }

    fn reset(&mut self) {}

    fn take_host_failure(&mut self) -> Option<String> {
        self.failure.take()
    }
}

impl MmioTransport<Block> {
    /// Before a snapshot, with the vCPUs stopped: serves what the guest has asked for and brings
    /// the disk to stable storage.
    pub fn drain_and_flush(&self) -> Result<(), DiskError> {
        self.drain();
        self.with(|block, _| block.disk.flush())
    }

    /// See [`Disk::go_on_over`]; call it after [`drain_and_flush`](Self::drain_and_flush), with
    /// the vCPUs still stopped.
    pub fn go_on_over(&self, files: Vec<std::fs::File>) -> Result<(), DiskError> {
        self.with(|block, _| block.disk.go_on_over(files))
    }
}
