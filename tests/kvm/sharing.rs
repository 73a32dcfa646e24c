//! A snapshot takes no memory. A guest that goes on takes memory for the frames that it writes.

use nvvmm_tests::{Engine, Host};

const MIB: u64 = 1 << 20;

#[test]
fn a_snapshot_costs_less_than_a_hundredth_of_what_it_holds() {
    let host = Host::new(1024);
    if host.engine() == Engine::Private {
        return private_memory_costs_the_pool_what_was_written_since_the_last_snapshot(&host);
    }
    let granules = 2 * host.medium().granule_bytes();
    let mut vm = host.boot_bare_metal(256, 2);
    vm.ask("fill 200 1");
    let touched = 200 * MIB;
    let before = host.medium_bytes();
    assert!(
        before >= touched,
        "{before} bytes behind the pool, {touched} touched"
    );
    let report = vm.snapshot("s");
    let grown = host.medium_bytes() - before;
    assert!(
        grown < touched / 100 + granules,
        "the snapshot of {touched} bytes took {grown}"
    );
    assert!(
        report["mapped_bytes"].as_u64().unwrap() >= touched,
        "{report}"
    );

    let rewritten = 20 * MIB;
    // A guest that writes one chunk after the other has chunks copied ahead: half as much as it
    // has written, at most.
    let slack = rewritten / 2 + 4 * MIB;
    vm.ask(&format!("write 0 {}", rewritten / 4096));
    let grown = host.medium_bytes() - before;
    assert!(grown >= rewritten, "{grown} for {rewritten} rewritten");
    assert!(
        grown <= rewritten + slack + touched / 100 + granules,
        "{grown} for {rewritten} rewritten"
    );

    let again = vm.snapshot("t");
    let new = again["new_bytes"].as_u64().unwrap();
    assert!(new >= rewritten && new <= rewritten + slack, "{again}");
    host.run(&["rm", "s", "t"]).ok();
    vm.stop();
    let left = host.medium_bytes();
    assert!(
        left < 2 * MIB + granules,
        "{left} bytes are left behind an empty pool"
    );
}

#[test]
fn sparse_writes_cost_at_most_a_cluster_each() {
    let host = Host::new(1024);
    let mut vm = host.boot_bare_metal(128, 1);
    vm.ask("fill 100 1");
    vm.snapshot("s");
    let before = host.medium_bytes();
    // One frame of every 4 MiB, so that none is a neighbour of another.
    vm.ask("write 0 25 1024");
    let grown = host.medium_bytes() - before;
    let cluster = host.medium().granule_bytes().max(64 << 10);
    // The guest's journal and stack have pages of their own.
    assert!(
        grown <= (25 + 16) * cluster,
        "25 sparse writes took {grown} bytes"
    );
}

#[test]
fn clones_share_what_they_do_not_write() {
    let host = Host::new(1024);
    let mut vm = host.boot_bare_metal(128, 1);
    vm.ask("fill 100 1");
    vm.snapshot("s");
    vm.stop();
    let before = host.medium_bytes();
    let mut clones: Vec<_> = (0..4).map(|_| host.restore("s", &[])).collect();
    for clone in &mut clones {
        clone.ask("touch 100 read");
        clone.ask("write 0 256");
    }
    let grown = host.medium_bytes() - before;
    assert!(
        grown < 4 * (MIB + 2 * MIB + host.medium().granule_bytes()),
        "4 clones that write 1 MiB each took {grown} bytes"
    );
}

fn private_memory_costs_the_pool_what_was_written_since_the_last_snapshot(host: &Host) {
    let mut vm = host.boot_bare_metal(256, 2);
    let empty = host.medium_bytes();
    vm.ask("fill 200 1");
    let (touched, slack) = (200 * MIB, 4 * MIB);
    assert!(
        host.medium_bytes() < empty + slack,
        "what was touched is not in the pool"
    );
    let report = vm.snapshot("s");
    let first = host.medium_bytes() - empty;
    assert!(
        (touched..touched + slack).contains(&first),
        "{first} bytes for {touched}"
    );
    assert!(
        report["mapped_bytes"].as_u64().unwrap() >= touched,
        "{report}"
    );
    let rewritten = 20 * MIB;
    vm.ask(&format!("write 0 {}", rewritten / 4096));
    let again = vm.snapshot("t");
    let second = host.medium_bytes() - empty - first;
    assert!(
        (rewritten..rewritten + slack).contains(&second),
        "{second} bytes for {rewritten}"
    );
    let new = again["new_bytes"].as_u64().unwrap();
    assert!(new >= rewritten && new <= rewritten + slack, "{again}");
    host.run(&["rm", "s", "t"]).ok();
    vm.stop();
    let left = host.medium_bytes();
    assert!(left < 2 * MIB, "{left} bytes are left behind an empty pool");
}
