//! A Linux guest learns from its generation identifier that it is a copy, and its clocks go on.

use nvvmm_tests::agent::{output, sh, wait_for};
use nvvmm_tests::{Host, Vm, witness::boot_without_witness};

/// Lines of the kernel about a new generation.
const FORKS: &str = "dmesg | grep -c 'virtual machine fork' || true";
/// Lines of the kernel about time that it did not expect.
const STALLS: &str = "dmesg | grep -ciE 'soft lockup|rcu.*stall|marking.*unstable' || true";

fn number(host: &Host, vm: &Vm<'_>, script: &str) -> u64 {
    let text = output(host, vm, script);
    let number = text.trim().parse();
    number.unwrap_or_else(|_| panic!("{script}: {text}"))
}

/// The disruption marker and the generation counter of the VMClock page, as the driver of Linux
/// 6.13 and later shows them. Empty without that driver.
fn clock_generation(host: &Host, vm: &Vm<'_>) -> String {
    let word = |offset: u32| {
        format!(
            "dd if=/dev/vmclock0 bs=4096 count=1 2>/dev/null |
                dd bs=8 skip={} count=1 2>/dev/null | md5sum;",
            offset / 8
        )
    };
    let script = format!("[ ! -c /dev/vmclock0 ] || {{ {} {} }}", word(16), word(104));
    output(host, vm, &script)
}

#[test]
fn each_copy_has_a_clock_page_of_its_own() {
    let host = Host::new(768);
    let vm = boot_without_witness(&host, 160);
    let own = clock_generation(&host, &vm);
    if own.is_empty() {
        println!("SKIPPED: the guest's kernel has no driver for VMClock (Linux 6.13)");
        return;
    }
    vm.snapshot("base");
    assert_eq!(clock_generation(&host, &vm), own);
    let mut seen = vec![own];
    for _ in 0..2 {
        let copy = host.restore("base", &[]);
        seen.push(clock_generation(&host, &copy));
        copy.stop();
    }
    host.run(&["rewind", &vm.name, "--to", "base"]).ok();
    seen.push(clock_generation(&host, &vm));
    let mut words: Vec<&str> = seen.iter().flat_map(|both| both.lines()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), 2 * seen.len(), "{seen:?}");
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn copies_and_rewound_vms_reseed_by_their_generation_and_their_clocks_go_on() {
    let host = Host::new(768);
    let vm = boot_without_witness(&host, 160);
    let devices = "cd /sys/bus/acpi/devices && cat VMGENCTR:00/hid AMZNC10C:00/hid";
    assert_eq!(output(&host, &vm, devices), "VMGENCTR\nAMZNC10C\n");
    let bound = "ls -d /sys/bus/*/drivers/vmgenid/VMGENCTR:00";
    let has_driver = sh(&host, &vm, bound).code == 0;
    let is_reseeded = |vm: &Vm<'_>| {
        if has_driver {
            wait_for(&host, vm, &format!("[ $({FORKS}) = 1 ]"));
        } else {
            eprintln!("the guest's kernel has no driver for VMGenID (CONFIG_VMGENID)");
        }
    };
    let uptime = "cut -d' ' -f1 /proc/uptime | tr -d .";
    let before = number(&host, &vm, uptime);
    let stalls = number(&host, &vm, STALLS);
    vm.snapshot("base");
    assert_eq!(number(&host, &vm, FORKS), 0, "a snapshot is no fork");
    let time = "date +%s";
    for options in [&[][..], &["--clock", "keep"]] {
        let copy = host.restore("base", options);
        is_reseeded(&copy);
        assert!(number(&host, &copy, uptime) >= before, "{options:?}");
        assert!(number(&host, &copy, time) > 1_600_000_000, "{options:?}");
        assert_eq!(number(&host, &copy, STALLS), stalls, "{options:?}");
        copy.stop();
    }
    host.run(&["rewind", &vm.name, "--to", "base"]).ok();
    is_reseeded(&vm);
    assert!(number(&host, &vm, uptime) >= before);
    assert_eq!(number(&host, &vm, STALLS), stalls);
    vm.stop();
    host.assert_pool_clean();
}
