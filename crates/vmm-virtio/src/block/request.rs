//! What a guest asks of its disk, parsed and checked. Pure: no I/O, no guest memory.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

/// Bytes of a sector, the unit of every position on a virtio disk.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of a request's header: type, reserved, sector.
pub const HEADER_BYTES: usize = 16;
/// Bytes of one range of a discard or write-zeroes request: sector, count, flags.
pub const RANGE_BYTES: usize = 16;
/// Bytes of the identity a disk answers.
pub const ID_BYTES: usize = 20;

/// LIMIT: data of one request. No buffer of ours is this large; it bounds how long the event loop
/// is busy with one request. Linux stays under it by its default `max_sectors_kb`.
pub const REQUEST_BYTES_MAX: u64 = 16 << 20;
/// LIMIT: ranges of one discard or write-zeroes request, announced in the configuration space.
pub const RANGES_MAX: usize = 16;
/// LIMIT: sectors of one such range (2 GiB), announced likewise.
pub const RANGE_SECTORS_MAX: u32 = 1 << 22;

/// A request that may be carried out as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read `len` bytes at byte `offset`; both whole sectors, inside the disk.
    Read {
        /// Byte position on the disk.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Write `len` bytes at byte `offset`; both whole sectors, inside the disk.
    Write {
        /// Byte position on the disk.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Bring everything written so far to stable storage.
    Flush,
    /// Tell the serial number.
    GetId,
    /// Forget the contents of `ranges` ranges, which follow the header.
    Discard {
        /// How many, at least 1.
        ranges: usize,
    },
    /// Make `ranges` ranges, which follow the header, read as zeroes.
    WriteZeroes {
        /// How many, at least 1.
        ranges: usize,
    },
}

/// Why a request is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Beyond the disk, too long, or not in whole sectors.
    Io,
    /// Not something this disk does.
    Unsupported,
}

/// The request with this `header`, `out_len` bytes of data from the guest and `in_len` bytes of
/// room for data to the guest, for a disk of `sectors` sectors.
pub fn parse_request(
    header: &[u8; HEADER_BYTES],
    out_len: u64,
    in_len: u64,
    sectors: u64,
) -> Result<Request, Refusal> {
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = *header;
    let sector = u64::from_le_bytes(sector);
    match u32::from_le_bytes([t0, t1, t2, t3]) {
        VIRTIO_BLK_T_IN => {
            let offset = check_data(sector, in_len, sectors)?;
            Ok(Request::Read { offset, len: in_len })
        }
        VIRTIO_BLK_T_OUT => {
            let offset = check_data(sector, out_len, sectors)?;
            Ok(Request::Write { offset, len: out_len })
        }
        VIRTIO_BLK_T_FLUSH => Ok(Request::Flush),
        VIRTIO_BLK_T_GET_ID if in_len >= ID_BYTES as u64 => Ok(Request::GetId),
        VIRTIO_BLK_T_GET_ID => Err(Refusal::Io),
        VIRTIO_BLK_T_DISCARD => Ok(Request::Discard { ranges: count_ranges(out_len)? }),
        VIRTIO_BLK_T_WRITE_ZEROES => Ok(Request::WriteZeroes { ranges: count_ranges(out_len)? }),
        _ => Err(Refusal::Unsupported),
    }
}

/// One range of a discard (`flags_allowed` 0) or write-zeroes request: byte offset and length.
pub fn parse_range(
    range: &[u8; RANGE_BYTES],
    flags_allowed: u32,
    sectors: u64,
) -> Result<(u64, u64), Refusal> {
    let [s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3, f0, f1, f2, f3] = *range;
    let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    let count = u32::from_le_bytes([c0, c1, c2, c3]);
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    if flags & !flags_allowed != 0 {
        return Err(Refusal::Unsupported);
    }
    if count > RANGE_SECTORS_MAX {
        return Err(Refusal::Io);
    }
    let offset = check_inside(sector, count.into(), sectors)?;
    Ok((offset, u64::from(count).saturating_mul(SECTOR_BYTES)))
}

fn check_data(sector: u64, len: u64, sectors: u64) -> Result<u64, Refusal> {
    if len == 0 || len > REQUEST_BYTES_MAX || !len.is_multiple_of(SECTOR_BYTES) {
        return Err(Refusal::Io);
    }
    check_inside(sector, len / SECTOR_BYTES, sectors)
}

/// The byte offset of `sector`, when `count` sectors from there are all on the disk.
fn check_inside(sector: u64, count: u64, sectors: u64) -> Result<u64, Refusal> {
    match sector.checked_add(count) {
        Some(end) if end <= sectors => sector.checked_mul(SECTOR_BYTES).ok_or(Refusal::Io),
        _ => Err(Refusal::Io),
    }
}

fn count_ranges(out_len: u64) -> Result<usize, Refusal> {
    let ranges = usize::try_from(out_len).map_err(|_| Refusal::Io)?;
    if ranges == 0 || !ranges.is_multiple_of(RANGE_BYTES) || ranges / RANGE_BYTES > RANGES_MAX {
        return Err(Refusal::Io);
    }
    Ok(ranges / RANGE_BYTES)
}
