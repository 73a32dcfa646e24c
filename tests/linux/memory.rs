//! Memory of a process that fills and checks it; the guest's clocks, timers and CPUs; copies that
//! run beside the original.

use nvvmm_tests::{
    Host, Vm,
    witness::{ask, assert_healthy, boot, number},
};

fn a_guest_is_snapshotted_while_it_writes(vcpus: u32) {
    let host = Host::new(1024);
    let mut original = boot(&host, 192, vcpus, &[]);
    ask(&mut original, &format!("fill 24 5 {vcpus}"));
    ask(&mut original, "churn on");
    let before = ask(&mut original, "count");
    let clocks_before = ask(&mut original, "clocks");
    let report = original.snapshot("live");
    assert_eq!(report["copied_bytes"], 0, "{report}");
    println!("{vcpus} vCPUs, snapshot of a running Linux: {report}");
    assert_healthy(&mut original);
    original.snapshot("later");
    let after = ask(&mut original, "count");

    // All of them exist, but one at a time runs: they may share an emulated CPU.
    original.pause();
    let mut copies: Vec<Vm<'_>> = Vec::new();
    for options in [&[][..], &["--prefault"]] {
        let mut restored = host.restore("live", options);
        let copy = &mut restored;
        let count = ask(copy, "count");
        assert!(
            number(&count, "value") >= number(&before, "value"),
            "{count} after {before}"
        );
        let clocks = ask(copy, "clocks");
        for clock in ["realtime_ns", "monotonic_ns", "boottime_ns"] {
            assert!(
                number(&clocks, clock) >= number(&clocks_before, clock),
                "{clocks} after {clocks_before}"
            );
        }
        assert_healthy(copy);
        restored.pause();
        copies.push(restored);
    }
    original.resume();
    println!("restored: {}", copies[0].status()["restore"]);
    assert!(number(&ask(&mut original, "count"), "value") > number(&after, "value"));
    assert_healthy(&mut original);

    // A snapshot of a copy is restored when the originals are gone.
    original.stop();
    copies[0].resume();
    copies[0].snapshot("of-a-copy");
    copies.into_iter().for_each(Vm::stop);
    host.run(&["rm", "live", "later"]).ok();
    host.assert_pool_clean();
    let mut last = host.restore("of-a-copy", &["--once"]);
    assert_healthy(&mut last);
    last.stop();
    host.assert_pool_clean();
    assert_eq!(host.pool_status()["snapshot_bytes"], 0);
}

#[test]
fn one_vcpu() {
    a_guest_is_snapshotted_while_it_writes(1);
}

#[test]
fn two_vcpus() {
    a_guest_is_snapshotted_while_it_writes(2);
}
