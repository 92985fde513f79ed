//! Makes empty copy-on-write overlays (qcow2, version 3) for a disk, and tells their size.
//!
//! An overlay names no backing file: whoever opens a chain of layers is given all of them as open
//! files, in order, so a layer can never make its reader open a path. Creating one writes a few
//! hundred bytes into a sparse file; clusters are allocated as the guest writes.
//!
//! This crate does not read or write disk contents.

use std::{fs::File, io, os::unix::fs::FileExt};

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
const VERSION: u32 = 3;
/// Clusters of 16 KiB: the first write to a cluster copies the rest of it from the layer below, so
/// large ones amplify small writes; small ones make the tables long. Measured with 4 KiB writes
/// all over a disk, 64 KiB clusters take 7 times as long, 8 KiB ones no less.
const CLUSTER_BITS: u32 = 14;
/// Bytes of a cluster.
pub const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
/// Clusters one second-level table maps, each by 8 bytes.
const L2_ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Guest bytes one first-level entry stands for.
const L1_ENTRY_BYTES: u64 = CLUSTER_BYTES * L2_ENTRIES;

/// LIMIT: the largest disk; its first-level table (32768 entries) is 256 KiB, and no sandbox comes
/// near.
pub const VIRTUAL_SIZE_MAX: u64 = 1 << 40;

const HEADER_BYTES: u32 = 104;
/// `1 << 4` bits for each reference count.
const REFCOUNT_ORDER: u32 = 4;

/// Why an overlay could not be created or read.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// No disk has this size.
    #[error("a disk of {0} bytes is not between 1 and {VIRTUAL_SIZE_MAX}")]
    Size(u64),
    /// The file has content already.
    #[error("the file for a new overlay is not empty")]
    NotEmpty,
    /// The file is something else.
    #[error("the file is not a qcow2 overlay")]
    NotAnOverlay,
    /// The file could not be read.
    #[error("read the overlay's header")]
    Read(#[source] io::Error),
    /// The file could not be written.
    #[error("write the overlay's tables")]
    Write(#[source] io::Error),
}

/// Makes the empty file `file`, open for writing, an overlay that changes nothing of a disk of
/// `virtual_size` bytes. Does not wait for stable storage.
pub fn create(file: &File, virtual_size: u64) -> Result<(), OverlayError> {
    if virtual_size == 0 || virtual_size > VIRTUAL_SIZE_MAX {
        return Err(OverlayError::Size(virtual_size));
    }
    if file.metadata().map_err(OverlayError::Write)?.len() != 0 {
        return Err(OverlayError::NotEmpty);
    }
    // Clusters in use: header, reference table, first reference block, first-level table.
    let (reference_table, reference_block, l1_table) = (1, 2, 3);
    let l1_entries = virtual_size.div_ceil(L1_ENTRY_BYTES);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER_BYTES);
    let clusters = l1_table + l1_clusters;

    let references: Vec<u8> = (0..clusters).flat_map(|_| 1_u16.to_be_bytes()).collect();
    let reference_block_at = (reference_block * CLUSTER_BYTES).to_be_bytes();
    let header = header(
        virtual_size,
        l1_entries as u32, // at most 32768, by VIRTUAL_SIZE_MAX
        l1_table * CLUSTER_BYTES,
        reference_table * CLUSTER_BYTES,
    );
    // The file ends where its last cluster does, and what is not written reads as zero.
    file.set_len(clusters * CLUSTER_BYTES).map_err(OverlayError::Write)?;
    file.write_all_at(&references, reference_block * CLUSTER_BYTES).map_err(OverlayError::Write)?;
    file.write_all_at(&reference_block_at, reference_table * CLUSTER_BYTES)
        .map_err(OverlayError::Write)?;
    file.write_all_at(&header, 0).map_err(OverlayError::Write)
}

/// The size in bytes of the disk that the overlay `file` is for.
pub fn virtual_size(file: &File) -> Result<u64, OverlayError> {
    let mut header = [0; 32];
    file.read_exact_at(&mut header, 0).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => OverlayError::NotAnOverlay,
        _ => OverlayError::Read(error),
    })?;
    let size = parse_virtual_size(&header).ok_or(OverlayError::NotAnOverlay)?;
    if size == 0 || size > VIRTUAL_SIZE_MAX { Err(OverlayError::Size(size)) } else { Ok(size) }
}

/// The virtual size in the first bytes of a qcow2 file; none when it is something else.
pub fn parse_virtual_size(header: &[u8; 32]) -> Option<u64> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let size = rest.last_chunk::<8>()?;
    (u32::from_be_bytes(*magic) == MAGIC && u32::from_be_bytes(*version) == VERSION)
        .then(|| u64::from_be_bytes(*size))
}

/// The header, field by field as the format lays them out; all of it big endian.
fn header(virtual_size: u64, l1_entries: u32, l1_at: u64, reference_table_at: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES as usize + 8);
    let mut put32 = |values: &[u32]| {
        header.extend(values.iter().flat_map(|value| value.to_be_bytes()));
    };
    let halves = |value: u64| [(value >> 32) as u32, value as u32];
    put32(&[MAGIC, VERSION]);
    put32(&[0, 0, 0]); // no backing file name: offset, length
    put32(&[CLUSTER_BITS]);
    put32(&halves(virtual_size));
    put32(&[0]); // not encrypted
    put32(&[l1_entries]);
    put32(&halves(l1_at));
    put32(&halves(reference_table_at));
    put32(&[1]); // clusters of the reference table
    put32(&[0]); // internal snapshots
    put32(&[0, 0]); // where they are
    put32(&[0; 6]); // incompatible, compatible and autoclear features
    put32(&[REFCOUNT_ORDER, HEADER_BYTES]);
    put32(&[0, 0]); // end of header extensions
    header
}

#[cfg(test)]
mod test {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_overlay_knows_its_size() {
        for size in [1, 4096, 2 << 30, 8 << 30, VIRTUAL_SIZE_MAX] {
            let file = tempfile::tempfile().unwrap();
            create(&file, size).unwrap();
            assert_eq!(virtual_size(&file).unwrap(), size);
        }
    }

    #[test]
    fn an_overlay_is_flawless_to_the_reference_implementation() {
        for size in [1 << 20, 8 << 30, VIRTUAL_SIZE_MAX] {
            let file = tempfile::NamedTempFile::new().unwrap();
            create(file.as_file(), size).unwrap();
            let check = Command::new("qemu-img")
                .args(["check", "-f", "qcow2"])
                .arg(file.path())
                .output()
                .expect("qemu-img is installed (Debian package qemu-utils)");
            let said = String::from_utf8_lossy(&check.stdout).into_owned();
            assert!(check.status.success(), "{check:?}");
            assert!(said.contains("No errors were found"), "{said}");
        }
    }

    #[test]
    fn an_empty_overlay_is_small_on_disk() {
        use std::os::unix::fs::MetadataExt as _;
        let file = tempfile::tempfile().unwrap();
        create(&file, 8 << 30).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 <= 16384);
    }

    #[test]
    fn sizes_no_disk_has_are_refused() {
        for size in [0, VIRTUAL_SIZE_MAX + 1, u64::MAX] {
            let file = tempfile::tempfile().unwrap();
            assert!(matches!(create(&file, size), Err(OverlayError::Size(_))));
            assert_eq!(file.metadata().unwrap().len(), 0);
        }
    }

    #[test]
    fn a_file_with_content_is_left_alone() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"precious", 0).unwrap();
        assert!(matches!(create(&file, 4096), Err(OverlayError::NotEmpty)));
    }

    #[test]
    fn other_files_are_no_overlays() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(virtual_size(&file), Err(OverlayError::NotAnOverlay)));
        file.write_all_at(&[0x5a; 64], 0).unwrap();
        assert!(matches!(virtual_size(&file), Err(OverlayError::NotAnOverlay)));
    }
}
