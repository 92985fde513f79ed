//! From rules to a BPF program the kernel takes quickly.
//!
//! Installing a filter makes the kernel run it once for each system call there is (to learn which
//! need no second look) and translate it. seccompiler's programs try one call after another; on the
//! emulated processors of a portable host installing one took several milliseconds. This one finds
//! the call's number by bisection, is a third as long, and says the same: the tests compare the two
//! over all calls.
//!
//! ```text
//!   architecture? ─ other ─▶ kill
//!   number: bisection over the intervals of equal fate
//!     ├─▶ allow   ├─▶ kill   ├─▶ ENOSYS
//!     └─▶ the call's checks of arguments, each ending in allow or kill
//! ```
//! BPF jumps forward by at most 255 instructions, which is why the longest checks come last.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

/// What becomes of a call that does not kill the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The call happens.
    Allow,
    /// The call fails as if the kernel had none of this number.
    Missing,
    /// The call happens if one of these holds.
    Check(Vec<Check>),
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The low half equals `value`.
    Low { argument: u8, value: u32 },
    /// Where `mask` is set, the whole argument equals `value`.
    /// The mask is not zero.
    Masked { argument: u8, mask: u64, value: u64 },
}

/// The rules do not fit a program.
#[derive(Debug, thiserror::Error)]
#[error("a jump over {0} instructions is further than BPF can")]
pub(super) struct TooFar(usize);

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// `AUDIT_ARCH_X86_64`. Numbers mean other calls elsewhere.
const X86_64: u32 = 0xc000_003e;

const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

const fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Where a jump goes, before positions are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// As far as the instruction says; by default to the next one.
    Next,
    /// The block of this number.
    Block(usize),
}

/// Instructions whose jumps go to blocks.
type Code = Vec<(sock_filter, Target, Target)>;

/// The program that gives each call number its fate, and kills for those that have none.
pub(super) fn assemble(fates: &BTreeMap<u32, Fate>) -> Result<BpfProgram, TooFar> {
    // Blocks: three plain ends, then the checks, shortest first.
    const KILL_BLOCK: usize = 0;
    const ALLOW_BLOCK: usize = 1;
    const MISSING_BLOCK: usize = 2;
    let mut blocks: Vec<Code> =
        [KILL, ALLOW, MISSING].map(|end| vec![ending(end)]).into_iter().collect();
    let mut checked: Vec<(u32, &[Check])> = fates
        .iter()
        .filter_map(|(&number, fate)| match fate {
            Fate::Check(checks) => Some((number, checks.as_slice())),
            Fate::Allow | Fate::Missing => None,
        })
        .collect();
    checked.sort_by_key(|(_, checks)| checks.len());
    let mut block_of_check = BTreeMap::new();
    for (number, checks) in checked {
        block_of_check.insert(number, blocks.len());
        blocks.push(check_block(checks));
    }

    let block_of = |number: u32| match fates.get(&number) {
        None => KILL_BLOCK,
        Some(Fate::Allow) => ALLOW_BLOCK,
        Some(Fate::Missing) => MISSING_BLOCK,
        Some(Fate::Check(_)) => block_of_check.get(&number).copied().unwrap_or(KILL_BLOCK),
    };
    let intervals = intervals(fates.keys().copied(), block_of);

    let mut tree: Code = vec![
        (plain(LOAD, ARCHITECTURE), Target::Next, Target::Next),
        (plain(JUMP_EQUAL, X86_64), Target::Next, Target::Block(KILL_BLOCK)),
        (plain(LOAD, NUMBER), Target::Next, Target::Next),
    ];
    if let leaf @ Target::Block(_) = bisect(&intervals, &mut tree)? {
        // All numbers alike: no tree.
        tree.push((plain(JUMP_GREATER_EQUAL, 0), leaf, leaf));
    }
    link(tree, blocks)
}

/// Puts `blocks` behind `tree`, whose jumps to them become distances.
fn link(tree: Code, blocks: Vec<Code>) -> Result<BpfProgram, TooFar> {
    let mut start = tree.len();
    let mut starts = Vec::with_capacity(blocks.len());
    for block in &blocks {
        starts.push(start);
        start += block.len();
    }
    let distance = |from: usize, target: Target, otherwise: u8| match target {
        Target::Next => Ok(otherwise),
        Target::Block(block) => {
            let distance = starts[block] - from - 1;
            u8::try_from(distance).map_err(|_| TooFar(distance))
        }
    };
    let mut program = BpfProgram::with_capacity(start);
    for (at, (instruction, jt, jf)) in tree.into_iter().enumerate() {
        let jt = distance(at, jt, instruction.jt)?;
        let jf = distance(at, jf, instruction.jf)?;
        program.push(sock_filter { jt, jf, ..instruction });
    }
    program.extend(blocks.into_iter().flatten().map(|(instruction, _, _)| instruction));
    Ok(program)
}

fn ending(value: u32) -> (sock_filter, Target, Target) {
    (plain(RETURN, value), Target::Next, Target::Next)
}

/// Starts of maximal runs of numbers that go to the same block, with that block.
fn intervals(
    numbers: impl Iterator<Item = u32>,
    block_of: impl Fn(u32) -> usize,
) -> Vec<(u32, usize)> {
    let mut intervals = vec![(0, block_of(0))];
    // A fate can change at a number with one, and right after it.
    for start in numbers.flat_map(|number| [number, number + 1]) {
        let block = block_of(start);
        match intervals.last_mut() {
            Some((_, last)) if *last == block => {}
            Some((last_start, last)) if *last_start == start => *last = block,
            _ => intervals.push((start, block)),
        }
    }
    intervals
}

/// Appends a decision tree over `intervals`; returns where to enter it.
///
/// Both children of a node come after it: first the lower, right behind, then the upper.
fn bisect(intervals: &[(u32, usize)], code: &mut Code) -> Result<Target, TooFar> {
    let middle = intervals.len() / 2;
    let (lower, upper) = intervals.split_at(middle);
    let (Some(_), Some(&(start, block))) = (lower.first(), upper.first()) else {
        let block = intervals.first().map_or(0, |&(_, block)| block);
        return Ok(Target::Block(block));
    };
    let node = code.len();
    code.push((plain(JUMP_GREATER_EQUAL, start), Target::Block(block), Target::Next));
    if let leaf @ Target::Block(_) = bisect(lower, code)? {
        code[node].2 = leaf;
    }
    let upper_start = code.len();
    if let Target::Next = bisect(upper, code)? {
        // Inside the tree distances are known already.
        let distance = upper_start - node - 1;
        code[node].0.jt = u8::try_from(distance).map_err(|_| TooFar(distance))?;
        code[node].1 = Target::Next;
    }
    Ok(Target::Next)
}

/// Allows if one of `checks` holds, otherwise kills.
fn check_block(checks: &[Check]) -> Code {
    let mut code: Code = Vec::new();
    let mut allowing = Vec::new();
    let mut loaded = None;
    for check in checks {
        match *check {
            Check::Low { argument, value } => {
                let word = ARGUMENTS + u32::from(argument) * 8;
                if loaded.replace(word) != Some(word) {
                    code.push((plain(LOAD, word), Target::Next, Target::Next));
                }
                allowing.push(code.len());
                code.push((plain(JUMP_EQUAL, value), Target::Next, Target::Next));
            }
            Check::Masked { argument, mask, value } => {
                loaded = None;
                masked(argument, mask, value, &mut code);
                allowing.push(code.len() - 1);
            }
        }
    }
    code.push(ending(KILL));
    let allow = code.len();
    code.push(ending(ALLOW));
    for at in allowing {
        // At most a few dozen checks; `link` refuses what does not fit.
        code[at].0.jt = u8::try_from(allow - at - 1).unwrap_or(u8::MAX);
    }
    code
}

/// Compares both halves; the last instruction jumps if they match, any other goes on behind it.
fn masked(argument: u8, mask: u64, value: u64, code: &mut Code) {
    let low = ARGUMENTS + u32::from(argument) * 8;
    let halves =
        [(low + 4, mask >> 32, value >> 32), (low, mask & 0xffff_ffff, value & 0xffff_ffff)];
    let mut part: Vec<sock_filter> = Vec::new();
    for (word, mask, value) in halves {
        #[expect(clippy::cast_possible_truncation, reason = "halves of 64 bits have 32")]
        let (mask, value) = (mask as u32, value as u32);
        if mask == 0 {
            continue;
        }
        part.push(plain(LOAD, word));
        if mask != u32::MAX {
            part.push(plain(AND, mask));
        }
        part.push(plain(JUMP_EQUAL, value));
    }
    let last = part.len() - 1;
    for (index, mut instruction) in part.into_iter().enumerate() {
        if instruction.code == JUMP_EQUAL && index != last {
            // A few instructions: at most load, and, jump.
            instruction.jf = (last - index) as u8;
        }
        code.push((instruction, Target::Next, Target::Next));
    }
}
