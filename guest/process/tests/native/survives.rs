//! What a process has, and has again: one test for each promise.

use nvvmm_process::CaptureOptions;

use crate::harness::{can_run, round_trips, round_trips_with};

macro_rules! survives {
    ($($test:ident: $scenario:literal,)*) => {
        $(
            #[test]
            fn $test() {
                if can_run() {
                    round_trips($scenario);
                }
            }
        )*
    };
}

survives! {
    anonymous_memory: "anonymous",
    transparent_huge_pages: "huge-pages",
    private_file_mapping: "private-file",
    shared_file_mapping: "shared-file",
    protected_memory: "protected",
    heap: "heap",
    stack_growth_afterwards: "stack",
    memory_given_back_is_zero: "dont-need",
    guard_regions: "guard-regions",
    locked_and_advised_memory: "locked-and-advised",
    droppable_memory: "droppable",
    threads_with_locks_and_locals: "threads",
    robust_futexes: "robust-futexes",
    thread_names_and_scheduling: "thread-scheduling",
    pending_and_handled_signals: "signals",
    signal_stack: "signal-stack",
    interval_timers: "interval-timers",
    file_offsets_and_sharing: "files",
    pipes_with_what_is_in_them: "pipes",
    descriptor_numbers: "descriptors",
    directory_umask_and_limits: "surroundings",
    users_groups_and_capabilities: "credentials",
    session_and_group: "session",
    vector_registers: "vector-registers",
    restartable_sequences: "rseq",
    interrupted_sleep: "sleep",
    interrupted_pipe_read: "pipe-read",
    interrupted_futex_wait: "futex-wait",
    interrupted_poll: "poll",
    interrupted_signal_wait: "signal-wait",
}

#[test]
fn process_tree() {
    if can_run() {
        round_trips_with(
            "tree",
            CaptureOptions {
                tree: true,
                ..CaptureOptions::default()
            },
        );
    }
}
