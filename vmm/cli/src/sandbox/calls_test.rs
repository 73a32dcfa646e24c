use std::collections::{BTreeMap, BTreeSet};

use super::*;

const CHAPTER: &str = include_str!("../../../../docs/inside/sandbox.md");

/// The calls of each kind, by name, with `yes` or `some` (arguments).
fn allowed(kind: ThreadKind) -> BTreeMap<&'static str, &'static str> {
    let calls = of(kind);
    let release = |list: &&&[Call]| !std::ptr::eq(**list, DEBUGGING);
    let calls = calls.iter().filter(release).copied().flatten();
    let refused: BTreeSet<_> = REFUSED.iter().chain(UNKNOWN).map(|c| c.number).collect();
    calls
        .filter(|call| !refused.contains(&call.number))
        .map(|call| {
            let name = call.name.trim_start_matches("SYS_");
            let how = match call.when {
                When::Always => "yes",
                _ => "some",
            };
            (name, how)
        })
        .collect()
}

#[test]
fn the_chapter_has_the_table() {
    let kinds = ThreadKind::ALL.map(allowed);
    let names: BTreeSet<_> = kinds.iter().flat_map(|calls| calls.keys()).collect();
    let rows: Vec<String> = names
        .into_iter()
        .map(|name| {
            let cells = kinds
                .iter()
                .map(|calls| calls.get(name).copied().unwrap_or("-"));
            format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | "))
        })
        .collect();
    let table = rows.concat();
    assert!(CHAPTER.contains(&table), "the table is now:\n{table}");
}

#[test]
fn operations_have_all_that_the_threads_have_which_they_start() {
    let operations = allowed(ThreadKind::Operations);
    for kind in ThreadKind::ALL {
        for name in allowed(kind).keys() {
            assert!(operations.contains_key(name), "{name} of {}", kind.name());
        }
    }
}

#[test]
fn a_call_is_not_both_free_and_limited() {
    for kind in ThreadKind::ALL {
        let mut seen = BTreeMap::new();
        for call in of(kind).iter().copied().flatten() {
            let is_free = matches!(call.when, When::Always);
            let before = seen.insert(call.number, is_free);
            assert!(
                before.is_none_or(|before| before == is_free),
                "{} of {}",
                call.name,
                kind.name()
            );
        }
    }
}

#[test]
fn no_kind_may_begin_programs_or_connections() {
    for kind in ThreadKind::ALL {
        for call in of(kind).iter().copied().flatten() {
            let forbidden = [
                SYS_execve,
                SYS_execveat,
                SYS_fork,
                SYS_vfork,
                SYS_socket,
                SYS_connect,
                SYS_bind,
                SYS_listen,
                SYS_ptrace,
                SYS_process_vm_readv,
                SYS_process_vm_writev,
                SYS_pidfd_open,
                SYS_userfaultfd,
                SYS_mount,
                SYS_bpf,
                SYS_keyctl,
                SYS_io_uring_setup,
                SYS_reboot,
            ];
            assert!(!forbidden.contains(&call.number), "{}", call.name);
        }
    }
}
