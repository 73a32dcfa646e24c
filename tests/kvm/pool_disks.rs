//! Disks of the pool of VMs that run: in snapshots, copies, rewinds and rings.

use nvvmm_snapshot::{DiskEntry, Pool};
use nvvmm_tests::{Host, Vm, required};
use serde_json::Value;

const DISK_BYTES: u64 = 8 << 20;

fn boot<'h>(host: &'h Host, disks: &[&str]) -> Vm<'h> {
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let mut arguments = vec!["--kernel", kernel.to_str().unwrap()];
    disks
        .iter()
        .for_each(|disk| arguments.extend(["--disk", disk]));
    host.boot(&arguments, 16, 1)
}

fn disks(host: &Host) -> Vec<DiskEntry> {
    Pool::open(host.pool()).unwrap().disks().unwrap()
}

fn names(host: &Host) -> Vec<String> {
    disks(host).into_iter().map(|disk| disk.name).collect()
}

/// A host whose pool has the disks `base` and `tools`, each with its name at its beginning.
fn host() -> Host {
    let host = Host::new(256);
    let pool = Pool::open(host.pool()).unwrap();
    for name in ["base", "tools"] {
        pool.create_disk(name, DISK_BYTES).unwrap();
        let holder = pool.hold("maker").unwrap();
        let head = holder.attach_disk(name).unwrap();
        head.write(0, name.as_bytes()).unwrap();
    }
    host
}

#[test]
fn a_vms_disks_are_in_its_snapshots_and_copies_have_their_own() {
    let host = host();
    let vm = boot(&host, &["base", "tools,ro"]);
    let status = vm.status();
    let listed = status["disks"].as_array().unwrap();
    let field = |at: usize, name: &str| listed[at][name].clone();
    assert_eq!(field(0, "pool_disk"), "base");
    assert_eq!(field(0, "path"), Value::Null);
    assert_eq!(field(1, "read_only"), true);
    let taken: Value =
        serde_json::from_str(&host.run(&["snapshot", &vm.name, "s", "--json"]).ok().stdout)
            .unwrap();
    assert_eq!(
        taken["outside_disks"].as_array().unwrap().len(),
        0,
        "{taken}"
    );
    let own = |disk: &DiskEntry| disk.writer.clone();
    assert!(own(&disks(&host)[0]).unwrap().contains(&vm.name));

    let copy = host.restore("s", &[]);
    let named = |disk: &str| format!("{}.{disk}", copy.name);
    assert_eq!(copy.status()["disks"][0]["pool_disk"], named("base"));
    assert_eq!(copy.status()["disks"][0]["drive"], "base");
    let with_copies = [
        "base".to_owned(),
        "tools".to_owned(),
        named("base"),
        named("tools"),
    ];
    assert_eq!(names(&host), with_copies);
    // A copy's own snapshot has the disks by the names that they had at first.
    host.run(&["snapshot", &copy.name, "t"]).ok();
    copy.stop();
    assert_eq!(names(&host), ["base", "tools"]);
    let again = host.restore("t", &["--once"]);
    assert_eq!(again.status()["disks"][1]["drive"], "tools");
    again.stop();
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_vm_with_disks_is_sent_and_goes_on_in_another_pool() {
    let host = host();
    let vm = boot(&host, &["base", "tools,ro"]);
    host.run(&["snapshot", &vm.name, "s"]).ok();
    vm.stop();
    let stream = host.runtime().join("s.stream");
    let stream = stream.to_str().unwrap();
    host.run(&["send", "s", "--output", stream]).ok();
    let other = Host::new(256);
    other.run(&["receive", stream]).ok();
    let disks = other.json(&["disk", "ls", "--snapshot", "s"]);
    assert_eq!(disks.as_array().unwrap().len(), 2, "{disks}");
    // No path of the sender is used, and its disks came along: nothing has to be given.
    let copy = other.restore("s", &[]);
    assert_eq!(copy.status()["disks"][0]["drive"], "base");
    other.run(&["snapshot", &copy.name, "again"]).ok();
    let difference = other.json(&["diff", "s", "again"]);
    let of_disks = difference["different"].as_array().unwrap().iter();
    assert_eq!(of_disks.filter(|range| !range["disk"].is_null()).count(), 0);
    copy.stop();
    let pool = Pool::open(other.pool()).unwrap();
    assert!(pool.find("again").unwrap().foreign);
    other.assert_pool_clean();
    host.assert_pool_clean();
}

#[test]
fn a_vm_with_disks_goes_back_in_place_and_anew_and_keeps_checkpoints() {
    for in_place in [true, false] {
        let host = match in_place {
            true => host(),
            false => host().with_fault("NVVMM_TEST_WITHOUT", "rewind-in-place".to_owned()),
        };
        let vm = boot(&host, &["base", "tools,ro"]);
        host.json(&["checkpoint", &vm.name, "--every", "0", "--keep", "2"]);
        host.json(&["checkpoint", &vm.name, "--stop"]);
        host.json(&["snapshot", &vm.name, "s"]);
        let report = host.json(&["rewind", &vm.name, "--to", "s"]);
        let phases = report["phases"].as_array().unwrap();
        let is_in_place = phases.iter().any(|phase| phase["phase"] == "PutBackDisks");
        assert_eq!(is_in_place, in_place, "{report}");
        assert_eq!(vm.status()["disks"][0]["pool_disk"], "base");
        let pool = Pool::open(host.pool()).unwrap();
        pool.copy_disk_of("s", "base", "as-it-was").unwrap();
        vm.stop();
        let holder = pool.hold("reader").unwrap();
        for name in ["base", "as-it-was"] {
            let mut found = [0; 4];
            let reader = holder.attach_disk_read_only(name).unwrap();
            reader.read(0, &mut found).unwrap();
            assert_eq!(&found, b"base");
        }
        drop(holder);
        host.assert_pool_clean();
    }
}

#[test]
fn names_of_disks_that_are_not_there_or_in_use_are_told() {
    let host = host();
    let vm = boot(&host, &["base"]);
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let run = |disk: &str| {
        let kernel = kernel.to_str().unwrap();
        host.run(&["run", "--kernel", kernel, "--detach", "--disk", disk])
    };
    run("bas").refused(3, "there is neither a disk 'bas'");
    run("base").refused(4, "disk 'base' is in use by");
    host.run(&["snapshot", &vm.name, "s"]).ok();
    let given = ["restore", "s", "--detach", "--disk", "tools"];
    host.run(&given).refused(4, "may have been written after");
    let resized = host.json(&["disk", "resize", "base", "+8M"]);
    assert_eq!(resized["size_bytes"], 2 * DISK_BYTES);
    host.run(&["disk", "resize", "base", "4M"])
        .refused(2, "can only be made larger");
    host.run(&["disk", "rm", "base"]).refused(4, "is in use");
    // The snapshot has it as it was.
    let copy = host.restore("s", &[]);
    copy.stop();
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_disk_that_was_laid_out_for_it_is_shown_as_memory_on_any_medium() {
    let host = host();
    let image = host.runtime().join("root.img");
    std::fs::write(&image, vec![7; (3 << 20) + 512]).unwrap();
    let image = image.to_str().unwrap();
    host.run(&["disk", "import", image, "--name", "root", "--dax"])
        .ok();
    let vm = boot(&host, &["root,ro,dax", "base"]);
    assert_eq!(vm.status()["disks"][0]["dax"], true);
    host.run(&["snapshot", &vm.name, "s"]).ok();
    let copy = host.restore("s", &[]);
    assert_eq!(copy.status()["disks"][0]["dax"], true);
    copy.stop();
    vm.stop();
    // A disk whose blocks lie anywhere.
    if matches!(host.medium().name(), "hugetlbfs" | "devdax") {
        let kernel = required("NVVMM_BAREMETAL_GUEST");
        let kernel = kernel.to_str().unwrap();
        let disk = "tools,ro,dax";
        host.run(&["run", "--kernel", kernel, "--detach", "--disk", disk])
            .refused(4, "disk import - --dax");
    }
    host.assert_pool_clean();
}

#[test]
fn a_snapshot_that_a_disk_leaves_no_room_for_is_refused_before_the_pause() {
    let host = Host::new(64);
    let pool = Pool::open(host.pool()).unwrap();
    // Its map may take more than there is, if the guest writes.
    pool.create_disk("large", 32 << 40).unwrap();
    let vm = boot(&host, &["large"]);
    let ballast = pool.hold("ballast").unwrap();
    let free = pool.status().unwrap().free_blocks;
    let _taken = ballast.take_blocks((free - 600) as u32).unwrap();
    for more in [&[][..], &["--disks-only"]] {
        // What is said before the pause.
        let arguments = [&["snapshot", vm.name.as_str(), "s"][..], more].concat();
        host.run(&arguments).refused(5, "may be needed");
    }
    // A guest that is paused writes nothing more.
    host.run(&["pause", &vm.name]).ok();
    host.run(&["snapshot", &vm.name, "s"]).ok();
    drop(ballast);
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_snapshot_of_disks_only_has_them_and_no_vm() {
    let host = host();
    let vm = boot(&host, &["base", "tools,ro"]);
    let taken = host.json(&["snapshot", &vm.name, "d", "--disks-only"]);
    assert_eq!(taken["kind"], "disks", "{taken}");
    // While the VM is paused, too; and it stays paused.
    host.run(&["pause", &vm.name]).ok();
    host.run(&["snapshot", &vm.name, "paused", "--disks-only"])
        .ok();
    assert_eq!(vm.status()["state"], "paused");
    host.run(&["resume", &vm.name]).ok();
    // A snapshot of the whole VM does not care.
    host.run(&["snapshot", &vm.name, "whole"]).ok();

    let of_d = host.json(&["disk", "ls", "--snapshot", "d"]);
    assert_eq!(of_d.as_array().unwrap().len(), 2, "{of_d}");
    let listed = host.json(&["snapshots"]);
    let kinds = listed.as_array().unwrap().iter();
    let kinds: Vec<_> = kinds.map(|listed| &listed["kind"]).collect();
    assert_eq!(kinds, ["disks", "disks", "vm"]);
    host.run(&["disk", "copy", "d:base", "mine"]).ok();
    let other = boot(&host, &["mine"]);
    other.stop();
    for refused in [
        &["restore", "d", "--name", "none"][..],
        &["rewind", &vm.name, "--to", "d"],
        &["spare", "d", "--count", "1"],
    ] {
        host.run(refused).refused(4, "has disks only");
    }
    let inside = host.json(&["inspect", "d"]);
    assert_eq!(inside["disks"][0]["disk"], "base", "{inside}");
    assert_eq!(host.json(&["pool", "status"])["disk_count"], 3);
    vm.stop();
    host.run(&["rm", "d", "paused", "whole"]).ok();
    let without = boot(&host, &[]);
    host.run(&["snapshot", &without.name, "e", "--disks-only"])
        .refused(4, "no disk of the pool");
    without.stop();
    host.assert_pool_clean();
}
