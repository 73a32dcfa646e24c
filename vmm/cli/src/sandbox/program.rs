//! Filters as programs of classic BPF (seccomp(2)): a tree of comparisons over the number of the
//! call.
//!
//! When a filter is added, the kernel runs it once for each number there is, to find those that are
//! always allowed (`seccomp_cache_prepare`). A list of comparisons makes that some hundred thousand
//! instructions; a tree, some thousand. A call with limited arguments is also answered sooner.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, sock_filter};

use super::calls::{Call, When};

/// Answer of a filter, as the kernel encodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer(u32);

impl Answer {
    /// The call is carried out.
    pub const ALLOW: Self = Self(libc::SECCOMP_RET_ALLOW);
    /// The call is told, and ends the process.
    pub const TRAP: Self = Self(libc::SECCOMP_RET_TRAP);

    /// The call fails with this error.
    pub const fn error(errno: i32) -> Self {
        Self(libc::SECCOMP_RET_ERRNO | errno as u32)
    }
}

/// Answer to a call: `hit` when one of the conditions holds, `miss` when none does.
#[derive(Clone, Debug)]
struct Rule {
    when: Vec<When>,
    hit: Answer,
    miss: Answer,
}

/// Answers by the number of the call.
#[derive(Clone, Debug)]
pub struct Rules {
    otherwise: Answer,
    rules: BTreeMap<u32, Rule>,
}

/// Architecture of the calls (`AUDIT_ARCH_X86_64`, include/uapi/linux/audit.h).
const ARCHITECTURE: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data` (include/uapi/linux/seccomp.h).
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;
/// Longest jump of a comparison, in instructions.
const JUMP_MAX: usize = u8::MAX as usize;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_NOT_BELOW: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

impl Rules {
    /// No rules: every call has this answer.
    pub fn otherwise(otherwise: Answer) -> Self {
        Self {
            otherwise,
            rules: BTreeMap::new(),
        }
    }

    /// Adds calls: the answer is `hit` under their conditions, else `miss`. Of a call that is added
    /// twice, one condition must hold. One with other answers before has these now.
    pub fn add<'a>(&mut self, calls: impl IntoIterator<Item = &'a Call>, answers: [Answer; 2]) {
        let [hit, miss] = answers;
        for call in calls {
            let rule = self.rules.entry(call.number as u32).or_insert(Rule {
                when: Vec::new(),
                hit,
                miss,
            });
            if (rule.hit, rule.miss) != (hit, miss) {
                *rule = Rule {
                    when: Vec::new(),
                    hit,
                    miss,
                };
            }
            rule.when.push(call.when);
        }
    }

    /// The program. A call of another architecture ends the process.
    pub fn program(&self) -> BpfProgram {
        let mut program = vec![
            step(LOAD, ARCHITECTURE_AT),
            branch(IF_EQUAL, ARCHITECTURE, 1, 0),
            step(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
            step(LOAD, NUMBER_AT),
        ];
        program.extend(tree(&self.ranges()));
        program
    }

    /// Ranges of numbers with the same answer, each by its first number, from 0 on.
    fn ranges(&self) -> Vec<(u32, Leaf<'_>)> {
        let mut ranges = Vec::new();
        let mut next = 0;
        for (number, rule) in &self.rules {
            if *number > next {
                add(&mut ranges, next, Leaf::Fixed(self.otherwise));
            }
            let is_free = rule.when.iter().any(|when| matches!(when, When::Always));
            let leaf = match is_free || rule.hit == rule.miss {
                true => Leaf::Fixed(rule.hit),
                false => Leaf::Limited(rule),
            };
            add(&mut ranges, *number, leaf);
            next = number + 1;
        }
        add(&mut ranges, next, Leaf::Fixed(self.otherwise));
        ranges
    }
}

/// Answer to the calls of a range.
#[derive(Clone, Debug)]
enum Leaf<'a> {
    Fixed(Answer),
    Limited(&'a Rule),
}

/// Adds a range, unless it is the same as the one before.
fn add<'a>(ranges: &mut Vec<(u32, Leaf<'a>)>, from: u32, leaf: Leaf<'a>) {
    match (ranges.last(), &leaf) {
        (Some((_, Leaf::Fixed(before))), Leaf::Fixed(answer)) if before == answer => {}
        _ => ranges.push((from, leaf)),
    }
}

fn step(code: u16, k: u32) -> sock_filter {
    branch(code, k, 0, 0)
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Finds the range of the number that is loaded.
fn tree(ranges: &[(u32, Leaf<'_>)]) -> BpfProgram {
    match ranges {
        [] => Vec::new(),
        [(_, Leaf::Fixed(answer))] => vec![step(RETURN, answer.0)],
        [(_, Leaf::Limited(rule))] => conditions(rule),
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let (below, from) = (tree(lower), upper[0].0);
            let mut program = match below.len() {
                far @ ..=JUMP_MAX => vec![branch(IF_NOT_BELOW, from, far as u8, 0)],
                far => vec![branch(IF_NOT_BELOW, from, 0, 1), step(JUMP, far as u32)],
            };
            program.extend(below);
            program.extend(tree(upper));
            program
        }
    }
}

/// Looks at the arguments of a call.
fn conditions(rule: &Rule) -> BpfProgram {
    let mut program = Vec::new();
    // Comparisons that lead to the last instruction; their distances are known at the end.
    let mut hits = Vec::new();
    for when in &rule.when {
        let own = [u64::from(std::process::id())];
        let (at, mask, values): (u8, Option<u64>, &[u64]) = match when {
            When::Always => continue,
            When::OneOf(at, values) => (*at, None, values),
            When::Not(at, value) => (*at, None, std::slice::from_ref(value)),
            When::Masked(at, mask, values) => (*at, Some(*mask), values),
            When::OwnProcess(at) => (*at, None, &own),
        };
        // The lower half comes first.
        program.push(step(LOAD, ARGUMENTS_AT + ARGUMENT_BYTES * u32::from(at)));
        program.extend(mask.map(|mask| step(AND, mask as u32)));
        let is_not = matches!(when, When::Not(..));
        for value in values {
            hits.push((program.len(), is_not));
            program.push(step(IF_EQUAL, *value as u32));
        }
    }
    program.push(step(RETURN, rule.miss.0));
    let last = program.len();
    program.push(step(RETURN, rule.hit.0));
    for (at, is_not) in hits {
        let far = (last - at - 1) as u8;
        match is_not {
            false => program[at].jt = far,
            true => program[at].jf = far,
        }
    }
    program
}

#[cfg(test)]
#[path = "program_test.rs"]
mod program_test;
