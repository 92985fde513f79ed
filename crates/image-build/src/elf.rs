//! Just enough of ELF64 to check a kernel and to read a module's own description.
//!
//! The input comes from a signed package, yet everything is read through bounds-checked getters:
//! a damaged download must give an error, not a panic.

/// What is wrong with a file that should be an ELF64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// The magic, class or byte order is not that of a little-endian ELF64.
    #[error("not a little-endian ELF64 file")]
    NotElf64,
    /// A header points outside the file.
    #[error("an ELF header points outside the file")]
    OutOfBounds,
}

/// Section header and program header sizes fixed by the ELF64 specification.
const PROGRAM_HEADER_BYTES: u64 = 56;
const SECTION_HEADER_BYTES: u64 = 64;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit entry point of the PVH boot protocol.
const NOTE_PHYS32_ENTRY: u32 = 18;

/// Whether the kernel can be entered by the PVH boot protocol.
///
/// # Errors
/// When `file` is not an ELF64 or one of its headers points outside of it.
pub(crate) fn has_pvh_note(file: &[u8]) -> Result<bool, ElfError> {
    check_magic(file)?;
    let table = u64_at(file, 32)?;
    let count = u64::from(u16_at(file, 56)?);
    for index in 0..count {
        let header = offset(table, index, PROGRAM_HEADER_BYTES)?;
        if u32_at(file, header)? != PT_NOTE {
            continue;
        }
        let notes = slice(file, u64_at(file, add(header, 8)?)?, u64_at(file, add(header, 32)?)?)?;
        if note_exists(notes, b"Xen\0", NOTE_PHYS32_ENTRY)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The values of `key` in a kernel module's `.modinfo` section, such as `depends`.
///
/// # Errors
/// When `file` is not an ELF64 or one of its headers points outside of it.
pub(crate) fn module_info(file: &[u8], key: &str) -> Result<Vec<String>, ElfError> {
    check_magic(file)?;
    let table = u64_at(file, 40)?;
    let count = u64::from(u16_at(file, 60)?);
    let names_index = u64::from(u16_at(file, 62)?);
    let (names, names_len) = section(file, offset(table, names_index, SECTION_HEADER_BYTES)?)?;
    let names = slice(file, names, names_len)?;
    let mut values = Vec::new();
    for index in 0..count {
        let header = offset(table, index, SECTION_HEADER_BYTES)?;
        let name = u64::from(u32_at(file, header)?);
        let name = names.get(usize_of(name)?..).ok_or(ElfError::OutOfBounds)?;
        if !name.starts_with(b".modinfo\0") {
            continue;
        }
        let (start, len) = section(file, header)?;
        for entry in slice(file, start, len)?.split(|&byte| byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            if let Some((found, value)) = entry.split_once('=')
                && found == key
            {
                values.push(value.to_owned());
            }
        }
    }
    Ok(values)
}

fn note_exists(mut notes: &[u8], owner: &[u8], kind: u32) -> Result<bool, ElfError> {
    while !notes.is_empty() {
        let name_len = u64::from(u32_at(notes, 0)?);
        let body_len = u64::from(u32_at(notes, 4)?);
        let found_kind = u32_at(notes, 8)?;
        let name = slice(notes, 12, name_len)?;
        if found_kind == kind && name == owner {
            return Ok(true);
        }
        let next = 12 + name_len.next_multiple_of(4) + body_len.next_multiple_of(4);
        notes = notes.get(usize_of(next)?..).unwrap_or_default();
    }
    Ok(false)
}

fn check_magic(file: &[u8]) -> Result<(), ElfError> {
    if file.starts_with(b"\x7fELF\x02\x01") { Ok(()) } else { Err(ElfError::NotElf64) }
}

fn section(file: &[u8], header: u64) -> Result<(u64, u64), ElfError> {
    Ok((u64_at(file, add(header, 24)?)?, u64_at(file, add(header, 32)?)?))
}

fn offset(table: u64, index: u64, entry: u64) -> Result<u64, ElfError> {
    add(table, index * entry)
}

fn add(left: u64, right: u64) -> Result<u64, ElfError> {
    left.checked_add(right).ok_or(ElfError::OutOfBounds)
}

fn usize_of(value: u64) -> Result<usize, ElfError> {
    usize::try_from(value).map_err(|_| ElfError::OutOfBounds)
}

fn slice(file: &[u8], start: u64, len: u64) -> Result<&[u8], ElfError> {
    let end = usize_of(add(start, len)?)?;
    file.get(usize_of(start)?..end).ok_or(ElfError::OutOfBounds)
}

fn array_at<const N: usize>(file: &[u8], at: u64) -> Result<[u8; N], ElfError> {
    let bytes = slice(file, at, N as u64)?;
    bytes.try_into().map_err(|_| ElfError::OutOfBounds)
}

fn u16_at(file: &[u8], at: u64) -> Result<u16, ElfError> {
    array_at(file, at).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], at: u64) -> Result<u32, ElfError> {
    array_at(file, at).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], at: u64) -> Result<u64, ElfError> {
    array_at(file, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_with_note(kind: u32) -> Vec<u8> {
        let mut file = vec![0_u8; 256];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[64..68].copy_from_slice(&PT_NOTE.to_le_bytes());
        file[72..80].copy_from_slice(&160_u64.to_le_bytes());
        file[96..104].copy_from_slice(&20_u64.to_le_bytes());
        file[160..164].copy_from_slice(&4_u32.to_le_bytes());
        file[164..168].copy_from_slice(&4_u32.to_le_bytes());
        file[168..172].copy_from_slice(&kind.to_le_bytes());
        file[172..176].copy_from_slice(b"Xen\0");
        file
    }

    #[test]
    fn the_pvh_note_is_found() {
        assert_eq!(has_pvh_note(&kernel_with_note(NOTE_PHYS32_ENTRY)), Ok(true));
        assert_eq!(has_pvh_note(&kernel_with_note(7)), Ok(false));
    }

    #[test]
    fn a_header_that_points_outside_is_refused() {
        let mut file = kernel_with_note(7);
        file[72..80].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(has_pvh_note(&file), Err(ElfError::OutOfBounds));
        assert_eq!(has_pvh_note(b"MZ"), Err(ElfError::NotElf64));
    }

    #[test]
    fn a_module_tells_what_it_depends_on() {
        let mut file = vec![0_u8; 64 + 128];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[40..48].copy_from_slice(&64_u64.to_le_bytes());
        file[60..62].copy_from_slice(&2_u16.to_le_bytes());
        file[62..64].copy_from_slice(&0_u16.to_le_bytes());
        let names = file.len() as u64;
        file.extend_from_slice(b"\0.modinfo\0");
        let info = file.len() as u64;
        file.extend_from_slice(b"license=GPL\0depends=kvm,irqbypass\0");
        let info_len = file.len() as u64 - info;
        file[64 + 24..64 + 32].copy_from_slice(&names.to_le_bytes());
        file[64 + 32..64 + 40].copy_from_slice(&10_u64.to_le_bytes());
        file[128..132].copy_from_slice(&1_u32.to_le_bytes());
        file[128 + 24..128 + 32].copy_from_slice(&info.to_le_bytes());
        file[128 + 32..128 + 40].copy_from_slice(&info_len.to_le_bytes());
        assert_eq!(module_info(&file, "depends"), Ok(vec!["kvm,irqbypass".to_owned()]));
        assert_eq!(module_info(&file, "softdep"), Ok(Vec::new()));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut file in proptest::collection::vec(0_u8.., 0..300)) {
            for (at, byte) in b"\x7fELF\x02\x01".iter().enumerate() {
                if let Some(slot) = file.get_mut(at) {
                    *slot = *byte;
                }
            }
            let _ = has_pvh_note(&file);
            let _ = module_info(&file, "depends");
        }
    }
}
