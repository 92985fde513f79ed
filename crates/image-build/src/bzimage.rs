//! Taking the bootable ELF out of a distribution's compressed kernel.

use std::io::Read;

use crate::elf::{self, ElfError};

/// Why no kernel could be taken out of a `vmlinuz`.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The boot sector's signature or the setup header's magic is missing.
    #[error("not a Linux bzImage")]
    NotBzImage,
    /// The setup header places the payload outside the file.
    #[error("the kernel's payload lies outside the file")]
    PayloadOutside,
    /// The payload is not zstd.
    #[error("the kernel's payload is not compressed with zstd")]
    NotZstd,
    /// The payload says it is bigger than any kernel.
    #[error("the kernel claims to unpack to {bytes} bytes, more than any real kernel")]
    TooBig {
        /// What the payload claims.
        bytes: u64,
    },
    /// The payload does not decompress.
    #[error("cannot decompress the kernel")]
    Decompress {
        /// What the decoder or its reader said.
        source: std::io::Error,
    },
    /// The payload unpacks to another length than it says.
    #[error("the kernel unpacks to {found} bytes instead of {expected}")]
    Length {
        /// What the payload claims.
        expected: u64,
        /// What came out.
        found: u64,
    },
    /// What came out is not a sound ELF64.
    #[error("cannot read the unpacked kernel")]
    Elf {
        /// What is wrong with it.
        source: ElfError,
    },
    /// The kernel was built without `CONFIG_PVH`.
    #[error("the kernel cannot be entered by the PVH boot protocol")]
    NoPvhNote,
}

/// LIMIT: a distribution's vmlinux without debug information is about 50 MiB; ten times that is damage or an attack.
const VMLINUX_BYTES_MAX: u64 = 512 << 20;

const SECTOR_BYTES: u64 = 512;
const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const HEADER_MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Unpacks the vmlinux inside `bzimage` and checks that it can be booted by PVH.
///
/// # Errors
/// See [`ExtractError`]; no input makes this panic or use memory beyond 512 MiB.
pub(crate) fn extract_vmlinux(bzimage: &[u8]) -> Result<Vec<u8>, ExtractError> {
    let payload = payload(bzimage)?;
    // The build appends the unpacked length to the compressed stream.
    let (stream, length) = payload.split_last_chunk::<4>().ok_or(ExtractError::PayloadOutside)?;
    let expected = u64::from(u32::from_le_bytes(*length));
    if expected > VMLINUX_BYTES_MAX {
        return Err(ExtractError::TooBig { bytes: expected });
    }
    if !stream.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(ExtractError::NotZstd);
    }
    let decoder = ruzstd::decoding::StreamingDecoder::new(stream)
        .map_err(|source| ExtractError::Decompress { source: std::io::Error::other(source) })?;
    let mut vmlinux = Vec::new();
    decoder
        .take(expected + 1)
        .read_to_end(&mut vmlinux)
        .map_err(|source| ExtractError::Decompress { source })?;
    let found = vmlinux.len() as u64;
    if found != expected {
        return Err(ExtractError::Length { expected, found });
    }
    match elf::has_pvh_note(&vmlinux) {
        Ok(true) => Ok(vmlinux),
        Ok(false) => Err(ExtractError::NoPvhNote),
        Err(source) => Err(ExtractError::Elf { source }),
    }
}

fn payload(bzimage: &[u8]) -> Result<&[u8], ExtractError> {
    let magic = bzimage.get(HEADER_MAGIC..HEADER_MAGIC + 4);
    let flag = bzimage.get(BOOT_FLAG..BOOT_FLAG + 2);
    if magic != Some(b"HdrS") || flag != Some(&[0x55, 0xaa]) {
        return Err(ExtractError::NotBzImage);
    }
    // Zero means four, for images older than the field.
    let setup = match bzimage.get(SETUP_SECTS) {
        Some(0) | None => 4,
        Some(&sectors) => u64::from(sectors),
    };
    let start = (setup + 1) * SECTOR_BYTES + u64::from(u32_at(bzimage, PAYLOAD_OFFSET)?);
    let end = start + u64::from(u32_at(bzimage, PAYLOAD_LENGTH)?);
    let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(end)) else {
        return Err(ExtractError::PayloadOutside);
    };
    bzimage.get(start..end).ok_or(ExtractError::PayloadOutside)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ExtractError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<4>())
        .map(|field| u32::from_le_bytes(*field))
        .ok_or(ExtractError::NotBzImage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(stream: &[u8], claimed: u32) -> Vec<u8> {
        let mut image = vec![0_u8; 0x400];
        image[SETUP_SECTS] = 1;
        image[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xaa]);
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        let length = u32::try_from(stream.len() + 4).unwrap();
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&0_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(stream);
        image.extend_from_slice(&claimed.to_le_bytes());
        image
    }

    fn compressed(content: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Uncompressed)
    }

    fn kernel() -> Vec<u8> {
        let mut file = vec![0_u8; 256];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[64..68].copy_from_slice(&4_u32.to_le_bytes());
        file[72..80].copy_from_slice(&160_u64.to_le_bytes());
        file[96..104].copy_from_slice(&20_u64.to_le_bytes());
        file[160..164].copy_from_slice(&4_u32.to_le_bytes());
        file[164..168].copy_from_slice(&4_u32.to_le_bytes());
        file[168..172].copy_from_slice(&18_u32.to_le_bytes());
        file[172..176].copy_from_slice(b"Xen\0");
        file
    }

    #[test]
    fn a_kernel_comes_out_as_it_went_in() {
        let kernel = kernel();
        assert_eq!(extract_vmlinux(&image(&compressed(&kernel), 256)).unwrap(), kernel);
    }

    #[test]
    fn a_kernel_without_the_pvh_note_is_refused() {
        let mut kernel = kernel();
        kernel[168] = 7;
        let result = extract_vmlinux(&image(&compressed(&kernel), 256));
        assert!(matches!(result, Err(ExtractError::NoPvhNote)), "{result:?}");
    }

    #[test]
    fn hostile_lengths_are_refused() {
        let stream = compressed(&kernel());
        let result = extract_vmlinux(&image(&stream, u32::MAX));
        assert!(matches!(result, Err(ExtractError::TooBig { .. })), "{result:?}");
        let result = extract_vmlinux(&image(&stream, 255));
        assert!(matches!(result, Err(ExtractError::Length { expected: 255, found: 256 })));
        let mut outside = image(&stream, 256);
        outside[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        outside[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(extract_vmlinux(&outside), Err(ExtractError::PayloadOutside)));
        let mut short = image(&stream, 256);
        short[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&3_u32.to_le_bytes());
        assert!(matches!(extract_vmlinux(&short), Err(ExtractError::PayloadOutside)));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(extract_vmlinux(b""), Err(ExtractError::NotBzImage)));
        assert!(matches!(extract_vmlinux(&[0_u8; 4096]), Err(ExtractError::NotBzImage)));
        assert!(matches!(extract_vmlinux(&image(b"\x1f\x8b....", 6)), Err(ExtractError::NotZstd)));
    }

    proptest::proptest! {
        #[test]
        fn damaged_streams_give_an_error(at in 0_usize..300, bit in 0_u8..8) {
            let mut image = image(&compressed(&kernel()), 256);
            let at = 0x400 + at.min(image.len() - 0x400 - 1);
            image[at] ^= 1 << bit;
            let _ = extract_vmlinux(&image);
        }
    }
}
