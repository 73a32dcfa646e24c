//! Old memory never goes on with a newer disk in silence.

use std::{
    fs::{self, File, FileTimes},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nvvmm_tests::{Host, Outcome, Vm, required};

const DISK_BYTES: usize = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn make_disk(host: &Host, name: &str) -> PathBuf {
    let path = host.runtime().join(name);
    fs::write(&path, vec![1; DISK_BYTES]).unwrap();
    path
}

fn boot<'h>(host: &'h Host, disk: &str) -> Vm<'h> {
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    host.boot(&["--kernel", text(&kernel), "--disk", disk], 16, 1)
}

/// The host writes, at a time that the clock tells from the one before.
fn write(disk: &Path) {
    fs::write(disk, vec![2; DISK_BYTES]).unwrap();
    let later = SystemTime::now() + Duration::from_secs(1);
    let file = File::options().write(true).open(disk).unwrap();
    file.set_times(FileTimes::new().set_modified(later))
        .unwrap();
}

fn assert_ways_out(refused: Outcome, disk: &Path) {
    let refused = refused.refused(4, "was written after the snapshot");
    for part in [text(disk), "--disk FILE", "--stale-disks"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
}

#[test]
fn a_restore_with_a_disk_that_was_written_since_is_refused_with_the_ways_out() {
    let host = Host::new(256);
    let disk = make_disk(&host, "root.img");
    let vm = boot(&host, text(&disk));
    let report = vm.snapshot("s");
    assert_eq!(report["outside_disks"][0]["path"], text(&disk), "{report}");
    assert_eq!(report["outside_disks"][0]["checked"], true, "{report}");
    let told = host.run(&["snapshot", &vm.name, "end", "--stop"]).ok();
    assert!(told.stderr.contains("not included"), "{}", told.stderr);
    vm.wait_gone();

    // Nobody has written it.
    for snapshot in ["end", "s"] {
        let vm = host.restore(snapshot, &[]);
        assert_eq!(vm.status()["restore"]["notes"], serde_json::json!([]));
        vm.stop();
    }
    write(&disk);
    let restore = |options: &[&str]| {
        let arguments = [&["restore", "s", "--name", "again", "--detach"], options].concat();
        host.run(&arguments)
    };
    assert_ways_out(restore(&[]), &disk);
    assert_ways_out(restore(&["--once"]), &disk);
    assert_ways_out(restore(&["--no-sandbox"]), &disk);
    let copy = make_disk(&host, "copy.img");
    for options in [&["--disk", text(&copy)][..], &["--stale-disks"]] {
        restore(options).ok();
        host.run(&["stop", "again"]).ok();
    }
    host.assert_pool_clean();
}

#[test]
fn a_rewind_is_refused_when_a_disk_was_written_and_the_guest_goes_on() {
    let host = Host::new(256);
    let disk = make_disk(&host, "root.img");
    let mut vm = boot(&host, text(&disk));
    vm.ask("fill 2 1");
    vm.snapshot("s");
    let then = vm.ask("digest all");
    vm.ask("write 0 10 1");
    host.run(&["rewind", &vm.name, "--to", "s"]).ok();
    assert_eq!(vm.ask("digest all"), then, "nobody has written the disk");
    vm.ask("write 0 10 2");
    let now = vm.ask("digest all");
    write(&disk);
    for paused in [true, false] {
        if paused {
            vm.pause();
        }
        assert_ways_out(host.run(&["rewind", &vm.name, "--to", "s"]), &disk);
        let state = if paused { "paused" } else { "running" };
        assert_eq!(vm.status()["state"], state);
        if paused {
            vm.resume();
        }
        assert_eq!(vm.ask("digest all"), now, "a refusal changes nothing");
    }
    host.run(&["rewind", &vm.name, "--to", "s", "--stale-disks"])
        .ok();
    assert_eq!(vm.ask("digest all"), then);
    vm.stop();
    host.assert_pool_clean();
}
