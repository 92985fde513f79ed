//! An ELF kernel of a few instructions.

/// Where the kernel is loaded and entered, in 32-bit protected mode.
const LOAD: u32 = 0x10_0000;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen `public/elfnote.h`).
const NOTE_PHYS32_ENTRY: u32 = 18;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Guest-physical address of the counter that [`counting`] keeps.
pub(super) const COUNTER: u64 = 0x20_0000;

/// Reads the serial port's line status for ever, counting in `ecx` and at [`COUNTER`]:
/// nearly always in the middle of a port read.
pub(super) fn counting() -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0xba, 0xfd, 0x03, 0x00, 0x00,       // mov  edx, 0x3fd
        0x31, 0xc9,                         // xor  ecx, ecx
        0xec,                               // in   al, dx        <- loop
        0x41,                               // inc  ecx
        0x89, 0x0d, 0x00, 0x00, 0x20, 0x00, // mov  [0x200000], ecx
        0xeb, 0xf6,                         // jmp  loop
    ];
    elf(&code)
}

/// Resets the machine at once.
pub(super) fn resetting() -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0xb0, 0xfe, // mov al, 0xfe
        0xe6, 0x64, // out 0x64, al
        0xeb, 0xfa, // jmp back
    ];
    elf(&code)
}

/// One step of [`following`].
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// Writes a word to a guest-physical address.
    Write(u32, u32),
    /// Waits until the word at a guest-physical address is this one.
    Wait(u32, u32),
}

/// Does these steps, then waits for ever. While it waits it reads the serial port's line status.
pub(super) fn following(steps: &[Step]) -> Vec<u8> {
    #[rustfmt::skip]
    let mut code = vec![
        0xfc,                               // cld
        0xba, 0xfd, 0x03, 0x00, 0x00,       // mov  edx, 0x3fd
        0xbe, 0x00, 0x00, 0x00, 0x00,       // mov  esi, the steps
        0xad,                               // lodsd               <- next
        0x89, 0xc1,                         // mov  ecx, eax
        0xad,                               // lodsd
        0x89, 0xc7,                         // mov  edi, eax
        0xad,                               // lodsd
        0x89, 0xc3,                         // mov  ebx, eax
        0x85, 0xc9,                         // test ecx, ecx
        0x75, 0x04,                         // jnz  wait
        0x89, 0x1f,                         // mov  [edi], ebx
        0xeb, 0xef,                         // jmp  next
        0xec,                               // in   al, dx         <- wait
        0x39, 0x1f,                         // cmp  [edi], ebx
        0x75, 0xfb,                         // jne  wait
        0xeb, 0xe8,                         // jmp  next
    ];
    let steps_at = LOAD + code.len() as u32;
    code[7..11].copy_from_slice(&steps_at.to_le_bytes());
    // Nobody ever writes there.
    for step in steps.iter().chain([&Step::Wait(0x9_0000, 1)]) {
        let words = match *step {
            Step::Write(address, value) => [0, address, value],
            Step::Wait(address, value) => [1, address, value],
        };
        code.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    elf(&code)
}

/// A 64-bit ELF with `code` at [`LOAD`] and a PVH note that enters it there.
fn elf(code: &[u8]) -> Vec<u8> {
    let note_at = 64 + 2 * 56;
    let mut note = Vec::new();
    for word in [4u32, 4, NOTE_PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(LOAD.to_le_bytes());
    let code_at = note_at + note.len();

    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    file.extend([0; 8]);
    file.extend(2u16.to_le_bytes()); // ET_EXEC
    file.extend(62u16.to_le_bytes()); // EM_X86_64
    file.extend(1u32.to_le_bytes());
    file.extend(u64::from(LOAD).to_le_bytes()); // e_entry
    file.extend(64u64.to_le_bytes()); // e_phoff
    file.extend(0u64.to_le_bytes()); // e_shoff
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut header = |kind: u32, at: usize, address: u32, bytes: usize| {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for word in [at as u64, address.into(), address.into(), bytes as u64, bytes as u64, 4] {
            file.extend(word.to_le_bytes());
        }
    };
    header(PT_LOAD, code_at, LOAD, code.len());
    header(PT_NOTE, note_at, 0, note.len());
    file.extend(note);
    file.extend(code);
    file
}
