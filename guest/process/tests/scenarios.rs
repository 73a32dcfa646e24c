//! Scenarios of `subject`, and their results. The tests on this machine (`native`) and
//! those in Linux guests (tests/linux of the workspace) go through the same lists.

/// State that survives a capture and a restart: the promise's name and its scenario.
#[macro_export]
macro_rules! for_each_survivor {
    ($each:ident) => {
        $each! {
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
            memory_barriers: "memory-barriers",
            counters_of_events: "event-counters",
            timers_that_are_read: "timer-files",
            signals_that_are_read: "signal-files",
            poll_sets: "poll-sets",
            poll_set_entries_of_closed_numbers: "poll-set-aliases",
            one_shot_entries: "one-shot",
            ends_of_a_pipe_opened_again: "pipe-reopened",
            named_pipes: "named-pipes",
            locks_of_files: "file-locks",
            owners_of_files: "file-owners",
            timers_of_the_process: "process-timers",
            settings_of_the_process: "settings",
            settings_of_threads: "thread-settings",
            denied_write_and_execute: "write-or-execute",
            memory_locked_for_the_future: "future-locked",
            memory_files: "memory-files",
            sealed_memory_files: "sealed-memory",
            deleted_files: "deleted-files",
            replaced_file: "replaced-file",
            shared_anonymous_memory: "shared-anonymous",
            memory_shared_by_parent_and_child: "shared-memory-tree",
            system_v_segments: "segments",
            internet_sockets: "internet-sockets",
            unix_sockets: "unix-sockets",
            netlink_sockets: "netlink-sockets",
            connection_that_is_reset: "reset-connection",
            listener_of_parent_and_children: "listener-tree",
            filters_of_system_calls: "call-filters",
            another_root_directory: "other-root",
            watches_of_files: "watches",
            connections_of_unix_sockets: "unix-connections",
            process_tree: "tree",
            memory_that_forks_share: "forked-memory",
            children_that_ended: "ended-children",
            pairs_of_sockets: "socket-pairs",
            pair_of_sockets_of_parent_and_child: "socket-tree",
            descriptors_of_processes: "process-files",
            children_that_are_stopped: "stopped-child",
            event_loop_of_parent_and_child: "shared-loop",
            signal_of_a_childs_end: "exit-signal",
            terminals_with_what_is_in_them: "terminals",
            terminal_with_more_than_it_receives: "terminal-of-bytes",
            terminals_whose_output_was_stopped: "stopped-terminals",
            shell_with_jobs_on_a_terminal: "terminal-tree",
        }
    };
}

/// The scenarios that have children, and are captured with them.
pub const WITH_CHILDREN: [&str; 13] = [
    "terminal-tree",
    "tree",
    "unix-connections",
    "other-root",
    "listener-tree",
    "shared-memory-tree",
    "forked-memory",
    "ended-children",
    "process-files",
    "shared-loop",
    "exit-signal",
    "socket-tree",
    "stopped-child",
];

/// Refusals: a name, the scenario, the part of the process that is the cause, and the reason.
#[macro_export]
macro_rules! for_each_refusal {
    ($each:ident) => {
        $each! {
            connected_unix_socket: "outside-connection", "fd", "with a connection",
            socket_of_packets: "packet-socket", "fd", "of a kind that is not kept",
            socket_that_others_have: "outside-socket", "fd", "that process",
            connection_that_waits: "waiting-connection", "fd", "that wait to be accepted",
            io_uring: "io-uring", "fd", "io_uring",
            memfd_that_others_have: "shared-memfd", "fd", "is a memfd that process",
            memfd_of_huge_pages: "huge-memfd", "fd", "of huge pages",
            device_mapping: "device-mapping", "memory at", "is a device",
            memory_that_others_have: "outside-memory", "memory at", "is shared anonymous",
            part_of_a_segment: "part-of-segment", "memory at", "is a part of a segment",
            deleted_file_with_another_name: "linked-file", "fd", "has another name now",
            deleted_directory: "deleted-directory", "fd", "was deleted",
            lease: "lease", "fd", "has a lease",
            events_that_were_not_read: "unread-events", "fd", "events that were not read",
            shared_counter: "shared-counter", "fd", "is an eventfd that process",
            foreign_namespace: "foreign-namespace", "process", "is in another namespace (ns/uts)",
            pipe_with_an_outside_end: "outside-pipe", "fd", "is a pipe that process",
            memory_shared_with_a_child: "shared-memory", "process", "shares its memory",
            descriptors_shared_with_a_child: "shared-descriptors", "process", "shares its descr",
            directory_shared_with_a_child: "shared-directory", "process", "shares its directory",
            children_without_tree: "child", "process", "has children",
            traced_process: "traced", "thread", "is traced by process",
            terminal_that_nobody_has_opened: "unopened-terminal", "fd", "nobody has opened yet",
            terminal_that_others_have: "outside-terminal", "fd", "that process",
            code_of_32_bits: "32-bit", "process", "is a 32-bit program",
        }
    };
}

/// True if one of these lines says that this process is refused there, and why; by fd, address or
/// thread where that is the place.
pub fn is_refused(lines: &str, pid: &str, place: &str, reason: &str) -> bool {
    let process = format!("process {pid}");
    let begin = match place {
        "process" => format!("{process} {reason}"),
        "thread" => format!("{process}, thread {pid} "),
        "fd" => format!("{process}, fd "),
        _ => format!("{process}, {place} 0x"),
    };
    let mut lines = lines.lines();
    lines.any(|line| line.contains(reason) && line.contains(&begin))
}

/// Scenarios for which the kernel must be that new: the first two numbers of its release.
const SINCE: [(&str, (u32, u32)); 3] = [
    ("droppable", (6, 11)),
    ("guard-regions", (6, 13)),
    ("write-or-execute", (6, 3)),
];

/// True if a kernel of that release has what the scenario needs.
pub fn is_known_to(release: &str, scenario: &str) -> bool {
    let mut numbers = release
        .split(['.', '-'])
        .map(|number| number.parse().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    SINCE
        .iter()
        .all(|(name, since)| *name != scenario || (major, minor) >= *since)
}
