use nvvmm::checkpoint::report::{PhaseTime, RamCounters};

use super::*;

fn status() -> VmStatus {
    VmStatus {
        name: "web".into(),
        pid: 4711,
        state: VmState::Paused,
        notice: Some("paused because the pool is full".into()),
        waits_for_pid: None,
        vcpus: 2,
        memory_bytes: 512 << 20,
        pool: "/dev/shm/p".into(),
        origin: VmOrigin::Snapshot {
            name: "base".into(),
        },
        uptime_ms: 192_000,
        console: Some("/run/nvvmm/web.console".into()),
        ram: RamCounters {
            frames_mapped: 25_856,
            frames_own: 256,
            frames_shared: 25_600,
            frames_empty: 105_216,
            frames_ballooned: 2_560,
            ..RamCounters::default()
        },
        restore: None,
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
fn the_list_shows_vms_that_answer_and_those_that_do_not() {
    let silent = Listed::Silent {
        name: "stuck".into(),
        pid: Some(12),
        state: "silent",
        pool: None,
        notice: "no answer from the VM".into(),
    };
    let listed = [Listed::Answered(Box::new(status())), silent];
    let rows: Vec<Row> = listed.iter().map(ps_row).collect();
    let narrow = ps_table::table(&rows, Columns::default());
    assert_eq!(
        narrow,
        "NAME   STATE      MEMORY      OWN     SHARED  UP      FROM\n\
         web    paused  512.0 MiB  1.0 MiB  100.0 MiB  3m 12s  base\n\
         stuck  silent          -        -          -  -       -\n"
    );
    let wide = Columns {
        wide: true,
        all: false,
    };
    assert_eq!(
        ps_table::table(&rows[..1], wide),
        "NAME  STATE      MEMORY      OWN     SHARED       USED      EMPTY   BALLOON  \
         UP      FROM   PID  CPUS  REBOOTS  NETWORK  POOL        CONSOLE\n\
         web   paused  512.0 MiB  1.0 MiB  100.0 MiB  101.0 MiB  411.0 MiB  10.0 MiB  \
         3m 12s  base  4711     2        0  -        /dev/shm/p  /run/nvvmm/web.console\n"
    );
    assert_eq!(
        notes(&listed),
        "web: paused because the pool is full\nstuck: no answer from the VM\n"
    );
}

#[test]
fn the_list_fits_a_terminal_with_ordinary_names() {
    let mut vm = status();
    vm.name = "database-2".into();
    vm.uptime_ms = 86_399_000;
    vm.memory_bytes = (1 << 40) - 1;
    vm.ram.frames_own = 261_887;
    vm.ram.frames_shared = 261_887;
    vm.origin = VmOrigin::Snapshot {
        name: "before-upd".into(),
    };
    vm.pool = "/a/very/long/path/that/would/not/fit/into/eighty/columns/of/a/terminal".into();
    let rows = [ps_row(&Listed::Answered(Box::new(vm)))];
    for all in [false, true] {
        let text = ps_table::table(&rows, Columns { wide: false, all });
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}

#[test]
fn the_list_as_json_is_flat() {
    let json = serde_json::to_value(json_of(&Listed::Answered(Box::new(status())))).unwrap();
    assert_eq!(json["vm"], "web");
    assert_eq!(json["state"], "paused");
    assert_eq!(json["ram"]["own_bytes"], 1 << 20);
}

#[test]
fn a_snapshot_report_says_what_counts() {
    let report = SnapshotReport {
        name: "base".into(),
        disks_only: false,
        phases: vec![
            PhaseTime {
                phase: "PauseVcpus".into(),
                us: 40.2,
            },
            PhaseTime {
                phase: "ArmWriteProtect".into(),
                us: 1_240.0,
            },
        ],
        pause_us: 812.0,
        held_us_max: 1_240.0,
        total_us: 3_210.0,
        frames_mapped: 25_600,
        frames_new: 256,
        frames_copied: 0,
        frames_copied_paused: 0,
        ioctls_paused: 0,
        mmaps_paused: 0,
        state_bytes: 40 << 10,
        metadata_blocks: 3,
        digests_made: None,
        outside_disks: Vec::new(),
        durability: nvvmm_snapshot::Durability::Process,
    };
    assert_eq!(
        snapshot_line("web", &report),
        "snapshot base of web: paused for 812 µs, 3.21 ms in all"
    );
    assert_eq!(
        snapshot_details(&report),
        "\x20 memory 100.0 MiB shared by reference (1.0 MiB of it new), 0 B copied\n\
         \x20 accesses of the guest held for at most 1.24 ms\n\
         \x20 machine state 40.0 KiB, metadata 12.0 KiB\n\
         \x20 durability process\n\
         \x20 PauseVcpus            40 µs\n\
         \x20 ArmWriteProtect     1.24 ms\n"
    );
}
