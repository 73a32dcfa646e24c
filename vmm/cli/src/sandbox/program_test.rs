use super::super::calls;
use super::*;
use nvvmm::threads::ThreadKind;

/// Numbers of calls that are tried: more than there are.
const NUMBERS: u32 = 1000;

/// Carries a program out as the kernel does. Gives the answer and the instructions that it took.
fn carry_out(program: &[sock_filter], number: u32, arguments: [u64; 6]) -> (Answer, usize) {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&ARCHITECTURE.to_le_bytes());
    for (at, argument) in arguments.iter().enumerate() {
        data[16 + 8 * at..][..8].copy_from_slice(&argument.to_le_bytes());
    }
    let (mut at, mut a, mut steps) = (0, 0_u32, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let jump = |is: bool| usize::from(if is { jt } else { jf });
        (at, steps) = (at + 1, steps + 1);
        match code {
            LOAD => a = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
            AND => a &= k,
            JUMP => at += k as usize,
            IF_EQUAL => at += jump(a == k),
            IF_NOT_BELOW => at += jump(a >= k),
            RETURN => return (Answer(k), steps),
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// True when the arguments are among those of a call.
fn holds(when: When, arguments: &[u64; 6]) -> bool {
    let low = |at: u8| arguments[usize::from(at)] & 0xffff_ffff;
    match when {
        When::Always => true,
        When::OneOf(at, values) => values.contains(&low(at)),
        When::Not(at, value) => low(at) != value,
        When::Masked(at, mask, values) => values.contains(&(low(at) & mask)),
        When::OwnProcess(at) => low(at) == u64::from(std::process::id()),
    }
}

/// Arguments near all that calls name.
fn arguments_of(calls: &[&Call]) -> Vec<[u64; 6]> {
    let mut values = vec![0, 1, 0xffff_ffff, u64::from(std::process::id()), 1 << 32];
    for call in calls {
        match call.when {
            When::OneOf(_, named) | When::Masked(_, _, named) => {
                values.extend(
                    named
                        .iter()
                        .flat_map(|v| [*v, v + 1, v | 1 << 20, v | 1 << 40]),
                );
            }
            When::Not(_, value) => values.push(value),
            When::Always | When::OwnProcess(_) => {}
        }
    }
    values.into_iter().map(|value| [value; 6]).collect()
}

#[test]
fn the_program_of_each_kind_answers_as_its_list_says() {
    for kind in ThreadKind::ALL {
        let lists = calls::of(kind);
        let calls: Vec<&Call> = lists.iter().copied().flatten().collect();
        let mut rules = Rules::otherwise(Answer::TRAP);
        rules.add(calls.iter().copied(), [Answer::ALLOW, Answer::TRAP]);
        let program = rules.program();
        for number in (0..NUMBERS).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
            let of_number = |call: &&&Call| call.number == i64::from(number);
            let of_number: Vec<&Call> = calls.iter().filter(of_number).copied().collect();
            for arguments in arguments_of(&of_number) {
                let allowed = of_number.iter().any(|call| holds(call.when, &arguments));
                let expected = if allowed { Answer::ALLOW } else { Answer::TRAP };
                let (answer, _) = carry_out(&program, number, arguments);
                assert_eq!(answer, expected, "{number} {arguments:x?} {}", kind.name());
            }
        }
    }
}

#[test]
fn a_call_is_found_within_a_few_comparisons() {
    let program = super::super::filter::process_rules().program();
    let cost = |number| carry_out(&program, number, [0; 6]).1;
    let all: usize = (0..NUMBERS).map(cost).sum();
    assert!(program.len() < 400, "{} instructions", program.len());
    assert!(
        all < 15 * NUMBERS as usize,
        "{all} steps for {NUMBERS} calls"
    );
}

#[test]
fn a_program_of_another_architecture_ends_the_process() {
    let program = Rules::otherwise(Answer::ALLOW).program();
    assert_eq!(program[2], step(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    assert_eq!(program[1], branch(IF_EQUAL, ARCHITECTURE, 1, 0));
}

#[test]
fn a_far_part_of_the_tree_is_reached() {
    static VALUES: [u64; 200] = [7; 200];
    let call = |number| Call {
        number,
        name: "",
        when: When::OneOf(0, &VALUES),
    };
    let calls: Vec<Call> = (0..20).map(|n| call(n * 3)).collect();
    let mut rules = Rules::otherwise(Answer::TRAP);
    rules.add(&calls, [Answer::ALLOW, Answer::error(libc::EPERM)]);
    let program = rules.program();
    for number in 0..70 {
        let expected = match number {
            n if n % 3 != 0 || n >= 60 => Answer::TRAP,
            _ => Answer::ALLOW,
        };
        assert_eq!(carry_out(&program, number, [7; 6]).0, expected, "{number}");
        let refused = match expected {
            Answer::TRAP => Answer::TRAP,
            _ => Answer::error(libc::EPERM),
        };
        assert_eq!(carry_out(&program, number, [8; 6]).0, refused, "{number}");
    }
}
