//! A whole Debian whose root file system is a disk of the pool: programs write to it and verify it,
//! while snapshots are taken and copies run.
//!
//! The nightly run of scripts/test.sh makes the image that this needs. By hand:
//! `scripts/debian-image.sh --release bookworm --include fio,sqlite3 --output DIR/debian.img`, and
//! `NVVMM_DEBIAN_IMAGE=DIR/debian`.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nvvmm_tests::{
    Host, Vm,
    agent::{output, sh},
    required,
};

/// Longest wait for something in a guest on an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(600);
/// Snapshots that are taken while the programs run.
const SNAPSHOTS: u32 = 20;

/// Writes and verifies until `/stop` is there. Ends with a line in `/fio.done`.
const FIO: &str = "cd /root; n=0
    while [ ! -e /stop ]; do
        fio --name=v --rw=randwrite --bs=4k --size=4m --verify=crc32c --fsync=64 --minimal \
            --randseed=$n --verify_fatal=1 >/root/fio.out 2>&1 || { echo bad >/fio.done; exit; }
        n=$((n + 1))
    done
    echo good $n >/fio.done";
/// Commits rows in WAL mode until `/stop` is there.
const SQLITE: &str = "cd /root
    sqlite3 t.db 'pragma journal_mode=wal; create table t(n integer primary key, x blob);'
    while [ ! -e /stop ]; do
        sqlite3 t.db 'pragma synchronous=full; insert into t(x) values(randomblob(2000));' ||
            { echo bad >/sqlite.done; exit; }
    done
    echo good >/sqlite.done";

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn start(host: &Host, vm: &Vm<'_>, script: &str) {
    let detached = format!(
        "setsid sh -c '{}' </dev/null >/dev/null 2>&1 &",
        script.replace('\'', "'\\''")
    );
    sh(host, vm, &detached).ok();
}

/// Ends the programs, and has the guest say that nothing they wrote is damaged. Gives the number of
/// rows.
fn assert_intact(host: &Host, vm: &Vm<'_>) -> u64 {
    sh(host, vm, "touch /stop").ok();
    wait_until("fio and sqlite end", || {
        sh(host, vm, "test -e /fio.done && test -e /sqlite.done").code == 0
    });
    let said = output(host, vm, "cat /fio.done /sqlite.done; cat /root/fio.out");
    assert!(said.starts_with("good"), "{}: {said}", vm.name);
    assert!(!said.contains("bad"), "{}: {said}", vm.name);
    let checked = output(host, vm, "sqlite3 /root/t.db 'pragma integrity_check'");
    assert_eq!(checked.trim(), "ok", "{}", vm.name);
    output(host, vm, "sqlite3 /root/t.db 'select count(*) from t'")
        .trim()
        .parse()
        .unwrap()
}

/// Has the guest switch off, and checks its file system as it is then.
fn assert_clean_at_the_end(host: &Host, vm: Vm<'_>) {
    let disk = vm.status()["disks"][0]["pool_disk"]
        .as_str()
        .unwrap()
        .to_owned();
    host.run(&["shutdown", &vm.name, "--timeout", "300"]).ok();
    vm.wait_gone();
    assert_file_system_clean(host, &disk, &vm.name);
}

fn assert_file_system_clean(host: &Host, disk: &str, what: &str) {
    let image = host.runtime().join("exported.img");
    let path = image.to_str().unwrap();
    host.run(&["disk", "export", disk, path, "--force"]).ok();
    let checked = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(&image)
        .output()
        .expect("e2fsck runs");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{what}: {said}");
    std::fs::remove_file(image).unwrap();
}

#[test]
#[ignore = "needs an image of Debian, and some minutes"]
fn a_debian_on_a_disk_of_the_pool_goes_through_snapshots_copies_and_rewinds() {
    let image = required("NVVMM_DEBIAN_IMAGE");
    let file = |extension: &str| {
        let path = Path::new(&image).with_extension(extension);
        path.to_str().unwrap().to_owned()
    };
    let host = Host::new(2600);
    host.run(&["disk", "import", &file("img"), "--name", "root"])
        .ok();
    let (kernel, initrd) = (file("vmlinuz"), file("initrd"));
    let mut arguments = vec!["--kernel", &kernel, "--initramfs", &initrd];
    arguments.extend([
        "--disk",
        "root",
        "--cmdline",
        "quiet tsc=nowatchdog watchdog_thresh=60",
    ]);
    let vm = host.boot(&arguments, 384, 1);
    wait_until("the agent answers", || sh(&host, &vm, "true").code == 0);
    let began = Instant::now();
    start(&host, &vm, FIO);
    start(&host, &vm, SQLITE);
    wait_until("both programs write", || {
        sh(&host, &vm, "test -e /root/t.db && test -e /root/fio.out").code == 0
    });
    for number in 0..SNAPSHOTS {
        let taken = vm.snapshot(&format!("s{number}"));
        println!("s{number}: {} us", taken["pause_us"]);
        std::thread::sleep(Duration::from_secs(1));
    }
    // Three copies at once, beside the original.
    let copies: Vec<_> = [3, 11, 19]
        .map(|number| host.restore(&format!("s{number}"), &[]))
        .into();
    let rows: Vec<u64> = copies
        .iter()
        .map(|copy| assert_intact(&host, copy))
        .collect();
    println!("rows of the copies: {rows:?}");
    copies
        .into_iter()
        .for_each(|copy| assert_clean_at_the_end(&host, copy));
    // Back by memory and disk together; the programs go on from there.
    host.run(&["rewind", &vm.name, "--to", "s5"]).ok();
    assert!(assert_intact(&host, &vm) > 0);
    // What fstrim gives back is the pool's.
    sh(
        &host,
        &vm,
        "dd if=/dev/urandom of=/large bs=1M count=64 && sync && rm /large && sync",
    )
    .ok();
    let blocks = || {
        host.json(&["disk", "info", "root"])["used_bytes"]
            .as_u64()
            .unwrap()
    };
    let before = blocks();
    sh(&host, &vm, "fstrim /").ok();
    assert_clean_at_the_end(&host, vm);
    let after = blocks();
    println!(
        "used: {before} before fstrim, {after} after; all took {:?}",
        began.elapsed()
    );
    // Less than half of the file that was removed is still there.
    assert!(after < before + (32 << 20));
    host.assert_pool_clean();
}
