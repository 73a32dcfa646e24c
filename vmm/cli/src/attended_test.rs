use nvvmm::checkpoint::report::RamCounters;
use nvvmm::control::{VmOrigin, VmState};

use super::*;

#[test]
fn one_who_leaves_is_told_how_to_come_back_and_to_end_it() {
    let status = VmStatus {
        name: "web".into(),
        pid: 4711,
        state: VmState::Running,
        notice: None,
        waits_for_pid: None,
        vcpus: 1,
        memory_bytes: 2 << 20,
        pool: "/p".into(),
        origin: VmOrigin::Boot {
            kernel: "/k".into(),
        },
        uptime_ms: 0,
        reboot_count: 0,
        has_agent: false,
        console: None,
        ram: RamCounters::default(),
        restore: None,
        disks: Vec::new(),
        nets: Vec::new(),
        snapshots_taken: Vec::new(),
        ring: None,
        arriving: None,
        replica: None,
        sandbox: None,
    };
    assert_eq!(
        left_text(&status),
        "\nnvvmm: left the console, web goes on (pid 4711)\n  \
         console: nvvmm console web\n  end:     nvvmm stop web\n"
    );
}
