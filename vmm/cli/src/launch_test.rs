use nvvmm::checkpoint::report::{RamCounters, RestoreReport};

use super::*;
use crate::args::PoolOption;
use crate::given_path::readable;

fn start(console: Option<ConsoleChoice>, detach: bool, json: bool) -> StartArguments {
    StartArguments {
        name: None,
        pool: PoolOption::default(),
        detach,
        quiet: false,
        interactive: false,
        tty: false,
        console,
        no_sandbox: false,
        paused: false,
        on_reboot: crate::args::RebootChoice::Restart,
        uid: None,
        gid: None,
        json,
    }
}

fn status(origin: VmOrigin, restore: Option<RestoreReport>) -> VmStatus {
    VmStatus {
        name: "copy".into(),
        pid: 4711,
        state: VmState::Running,
        notice: None,
        waits_for_pid: None,
        vcpus: 1,
        memory_bytes: 2 << 20,
        pool: "/p".into(),
        origin,
        uptime_ms: 0,
        console: None,
        ram: RamCounters::default(),
        restore,
        disks: Vec::new(),
        nets: Vec::new(),
        snapshots_taken: Vec::new(),
        ring: None,
        arriving: None,
        replica: None,
        sandbox: None,
        reboot_count: 0,
        has_agent: false,
    }
}

#[test]
fn the_console_is_the_terminal_only_in_the_foreground() {
    let chosen = |console, detach| console_choice(&start(console, detach, false)).unwrap();
    assert_eq!(chosen(None, false), ConsoleChoice::Stdio);
    assert_eq!(chosen(None, true), ConsoleChoice::None);
    assert_eq!(
        chosen(Some(ConsoleChoice::None), false),
        ConsoleChoice::None
    );
    let refused = console_choice(&start(Some(ConsoleChoice::Stdio), true, false)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Usage);
}

#[test]
fn json_and_the_console_do_not_share_stdout() {
    let refused = console_choice(&start(None, false, true)).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Usage);
    assert!(console_choice(&start(Some(ConsoleChoice::None), false, true)).is_ok());
    assert!(console_choice(&start(None, true, true)).is_ok());
}

#[test]
fn the_text_says_where_the_vm_came_from() {
    let booted = status(
        VmOrigin::Boot {
            kernel: "/k".into(),
        },
        None,
    );
    assert_eq!(
        started_text(&booted),
        "copy runs (pid 4711)\n  console: nvvmm console copy\n  end:     nvvmm stop copy\n"
    );
    let report = RestoreReport {
        snapshot: "base".into(),
        vm: "copy".into(),
        phases: Vec::new(),
        first_instruction_us: 1_240.0,
        frames_mapped: 1,
        once: false,
        prefault: false,
        clock: Default::default(),
        connections: None,
        notes: Vec::new(),
    };
    let mut restored = status(
        VmOrigin::Snapshot {
            name: "base".into(),
        },
        Some(report),
    );
    restored.state = VmState::Paused;
    assert_eq!(
        foreground_text(&restored, true),
        "nvvmm: copy is paused (pid 4711), restored from base in 1.24 ms; \
         Ctrl-] leaves its console\n"
    );
}

#[test]
fn files_are_checked_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let error = readable("kernel", &dir.path().join("none")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(
        readable("kernel", dir.path()).unwrap_err().kind,
        ErrorKind::Usage
    );
    assert!(
        readable("kernel", Path::new("Cargo.toml"))
            .unwrap()
            .is_absolute()
    );
}

#[test]
fn a_made_up_name_is_chosen_only_without_a_given_one() {
    assert_eq!(name_choice(&start(None, false, false)), NameChoice::MadeUp);
    let named = StartArguments {
        name: Some("web".into()),
        ..start(None, false, false)
    };
    assert_eq!(name_choice(&named), NameChoice::Given("web".into()));
}
