//! The guest of the probe: the least a Linux kernel asks of a processor.
#![expect(unsafe_code, reason = "the guest is machine code, placed between two symbols")]

use core::arch::global_asm;
use core::ptr;

use crate::flat::GuestMemory;

/// Bytes of memory the guest has: what its one page table entry maps.
pub(crate) const MEMORY_BYTES: usize = 2 << 20;

const GDT: usize = 0x1000;
const IDT: usize = 0x2000;
const IDT_POINTER: usize = 0x2800;
const PML4: usize = 0x3000;
const PDPT: usize = 0x4000;
const PAGE_DIRECTORY: usize = 0x5000;
const STACK_TOP: usize = 0x8000;
/// Where the code is. It must not grow over [`VARIABLES`].
const CODE: usize = 0x8000;
/// Two quadwords for `cmpxchg16b`, aligned to 16.
const VARIABLES: usize = 0x9000;
/// How often the breakpoint handler ran.
const BREAKPOINTS: usize = 0x9010;
/// How far the guest has come: see [`Stage`].
const STAGE: usize = 0x9020;
/// Room for `xsave64`: legacy area and header, aligned to 64.
const XSAVE_AREA: usize = 0x9040;

/// Selector of the 64-bit code segment; the table is in [`load`].
const CODE64: u16 = 0x08;
/// Selector of the data segment.
pub(crate) const DATA: u16 = 0x10;
/// Selector of the 32-bit code segment the guest starts in.
pub(crate) const CODE32: u16 = 0x18;
/// Where the guest starts.
pub(crate) const ENTRY: u64 = CODE as u64;
/// Guest physical address and limit of its segment table.
pub(crate) const GDT_BASE: u64 = GDT as u64;
/// See [`GDT_BASE`].
pub(crate) const GDT_LIMIT: u16 = 4 * 8 - 1;

/// What the guest was last about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Start,
    Cmpxchg16b,
    Breakpoint,
    Xrstor,
    Done,
    /// An instruction worked but did something else than the manual says.
    WrongResult,
    /// Nothing the guest writes.
    Unknown(u32),
}

impl Stage {
    /// Completes the sentence "the guest stopped ...".
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Start => "on the way to 64-bit mode".into(),
            Self::Cmpxchg16b => "at lock cmpxchg16b".into(),
            Self::Breakpoint => "at int3 and its return by iretq".into(),
            Self::Xrstor => "at xsave64 and xrstor64".into(),
            Self::Done => "after its last instruction".into(),
            Self::WrongResult => "because an instruction gave a wrong result".into(),
            Self::Unknown(value) => format!("in a state it never entered ({value:#x})"),
        }
    }
}

// Starts in 32-bit protected mode without paging, as a kernel does that is booted by PVH. The
// stage is stored before each step, so that the host can tell which one failed.
global_asm!(
    ".pushsection .rodata.sandflare_probe_guest, \"a\"",
    ".globl sandflare_probe_guest_start",
    ".globl sandflare_probe_guest_end",
    "sandflare_probe_guest_start:",
    ".code32",
    "mov eax, cr4",
    "or eax, 0x20", // CR4.PAE
    "mov cr4, eax",
    "mov eax, {pml4}",
    "mov cr3, eax",
    "mov ecx, 0xc0000080", // IA32_EFER
    "rdmsr",
    "or eax, 0x100", // EFER.LME
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000000", // CR0.PG
    "mov cr0, eax",
    // Far jump to 64-bit code: spelled out, as assemblers differ about its operands.
    ".byte 0xea",
    ".long {code} + (2f - sandflare_probe_guest_start)",
    ".word {code64}",
    ".code64",
    "2:",
    "mov eax, {data}",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov esp, {stack_top}",
    "mov eax, {idt_pointer}",
    "lidt [rax]",
    // lock cmpxchg16b: 0 becomes rcx:rbx. The memory allocator of Linux depends on it.
    "mov dword ptr [{stage}], 1",
    "xor eax, eax",
    "xor edx, edx",
    "mov rbx, 0x1122334455667788",
    "mov rcx, 0x7ee1deadc0decafe",
    "lock cmpxchg16b [{variables}]",
    "jnz 8f",
    "cmp [{variables}], rbx",
    "jne 8f",
    "cmp [{variables} + 8], rcx",
    "jne 8f",
    // int3 through our own IDT, and iretq. Linux tests its own text patching with it at boot.
    "mov dword ptr [{stage}], 2",
    "int3",
    "cmp dword ptr [{breakpoints}], 1",
    "jne 8f",
    // xsave64 and xrstor64, if there are any. Linux switches threads with them.
    "mov dword ptr [{stage}], 3",
    "mov eax, 1",
    "xor ecx, ecx",
    "cpuid",
    "bt ecx, 26", // XSAVE
    "jnc 3f",
    "mov rax, cr4",
    "or rax, 0x40600", // OSXSAVE, OSXMMEXCPT, OSFXSR
    "mov cr4, rax",
    "xor ecx, ecx",
    "xgetbv",
    "or eax, 3", // x87 and SSE
    "xsetbv",
    "mov eax, 3",
    "xor edx, edx",
    "xsave64 [{xsave_area}]",
    "xrstor64 [{xsave_area}]",
    "3:",
    "mov dword ptr [{stage}], 4",
    "hlt",
    "8:",
    "mov dword ptr [{stage}], 5",
    "hlt",
    // Where entry 3 of the IDT points.
    "sandflare_probe_guest_breakpoint:",
    "inc dword ptr [{breakpoints}]",
    "iretq",
    "sandflare_probe_guest_end:",
    ".popsection",
    pml4 = const PML4,
    code = const CODE,
    code64 = const CODE64,
    data = const DATA,
    stack_top = const STACK_TOP,
    idt_pointer = const IDT_POINTER,
    stage = const STAGE,
    variables = const VARIABLES,
    breakpoints = const BREAKPOINTS,
    xsave_area = const XSAVE_AREA,
);

unsafe extern "C" {
    static sandflare_probe_guest_start: u8;
    static sandflare_probe_guest_breakpoint: u8;
    static sandflare_probe_guest_end: u8;
}

/// The code, and how far into it the breakpoint handler is.
fn code() -> (&'static [u8], usize) {
    let start = &raw const sandflare_probe_guest_start;
    let length = (&raw const sandflare_probe_guest_end).addr() - start.addr();
    let breakpoint = (&raw const sandflare_probe_guest_breakpoint).addr() - start.addr();
    // SAFETY: the two symbols enclose read-only bytes of this program.
    let code = unsafe { &*ptr::slice_from_raw_parts(start, length) };
    (code, breakpoint)
}

/// Puts the guest into its memory: code, segments, interrupt table, page tables.
pub(crate) fn load(memory: &GuestMemory) {
    let (code, breakpoint) = code();
    assert!(CODE + code.len() <= VARIABLES, "the guest's code has outgrown its page");
    memory.write(CODE, code);

    let quad = |address: usize, value: u64| memory.write(address, &value.to_le_bytes());

    // Segments: flat, ring 0. In the order of the selectors above.
    quad(GDT + usize::from(CODE64), 0x00af_9b00_0000_ffff);
    quad(GDT + usize::from(DATA), 0x00cf_9300_0000_ffff);
    quad(GDT + usize::from(CODE32), 0x00cf_9b00_0000_ffff);

    // Only the breakpoint has a gate. Any other exception ends in a triple fault, which KVM
    // reports as a shutdown.
    const BREAKPOINT: usize = 3;
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e00;
    let handler = (CODE + breakpoint) as u64;
    let gate = (handler & 0xffff)
        | (u64::from(CODE64) << 16)
        | (PRESENT_INTERRUPT_GATE << 32)
        | ((handler >> 16 & 0xffff) << 48);
    quad(IDT + BREAKPOINT * 16, gate);
    quad(IDT + BREAKPOINT * 16 + 8, handler >> 32);
    memory.write(IDT_POINTER, &((BREAKPOINT as u16 + 1) * 16 - 1).to_le_bytes());
    quad(IDT_POINTER + 2, IDT as u64);

    // The first 2 MiB, mapped to themselves by one large page.
    const PRESENT_WRITABLE: u64 = 0x3;
    const LARGE: u64 = 0x80;
    quad(PML4, PDPT as u64 | PRESENT_WRITABLE);
    quad(PDPT, PAGE_DIRECTORY as u64 | PRESENT_WRITABLE);
    quad(PAGE_DIRECTORY, PRESENT_WRITABLE | LARGE);
}

/// How far the guest in `memory` has come.
pub(crate) fn stage(memory: &GuestMemory) -> Stage {
    match memory.read_u32(STAGE) {
        0 => Stage::Start,
        1 => Stage::Cmpxchg16b,
        2 => Stage::Breakpoint,
        3 => Stage::Xrstor,
        4 => Stage::Done,
        5 => Stage::WrongResult,
        value => Stage::Unknown(value),
    }
}
