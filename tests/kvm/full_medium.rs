//! A full medium holds the guest that needs its memory, whether the pool promises more than it has
//! or others fill it. No process is killed, and every message tells it from a full pool.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nvvmm_tests::{Host, Vm, required};

use crate::full_pool::{assert_exact, assert_stands_still, wait_for_state, wait_until};

/// A small tmpfs.
struct SmallMedium(PathBuf);

impl SmallMedium {
    /// `None`, and a note, for an ordinary user.
    fn mount(name: &str, size_mib: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: only root can mount a small tmpfs");
            return None;
        }
        let at = std::env::temp_dir().join(format!("nvvmm-{name}-{}", std::process::id()));
        fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size_mib}m"), "tmpfs"])
            .arg(&at)
            .status();
        assert!(
            mounted.as_ref().is_ok_and(|status| status.success()),
            "a tmpfs can be mounted (as root): {mounted:?}"
        );
        Some(Self(at))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallMedium {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_full_medium_under_an_overcommitted_pool_is_the_same() {
    let Some(medium) = SmallMedium::mount("small", 64) else {
        return;
    };
    let host = Host::without_pool();
    let pool = medium.path().join("pool").to_str().unwrap().to_owned();
    host.run(&["pool", "create", &pool, "--size", "1G", "--overcommit"])
        .ok();
    let kernel = required("NVVMM_BAREMETAL_GUEST")
        .to_str()
        .unwrap()
        .to_owned();
    let mut vm = host.boot(&["--kernel", &kernel, "--pool", &pool], 48, 2);
    vm.ask("fill 24 1");
    vm.snapshot("a");
    let filler = medium.path().join("filler");
    let rest = nix::sys::statvfs::statvfs(medium.path()).unwrap();
    let left = rest.blocks_available() * rest.fragment_size();
    fs::write(&filler, vec![1; left as usize - (4 << 20)]).unwrap();
    vm.ask("churn on 5 rand");
    wait_for_state(&vm, "no-space");
    assert_stands_still(&vm);
    assert_names_the_medium(&vm, &pool);
    host.run(&["snapshot", &vm.name, "b"])
        .refused(5, "the medium of the pool is full");
    vm.pause();
    fs::remove_file(&filler).unwrap();
    wait_until(&vm, "relieved", |status| status["notice"].is_null());
    assert_eq!(vm.status()["state"], "paused");
    vm.resume();
    assert_exact(&mut vm);
    vm.stop();
    host.run(&["pool", "check", &pool]).ok();
}

/// Takes all that the medium has but `but_mib`.
fn fill_medium(medium: &SmallMedium, but_mib: u64) -> PathBuf {
    let filler = medium.path().join("filler");
    let rest = nix::sys::statvfs::statvfs(medium.path()).unwrap();
    let left = rest.blocks_available() * rest.fragment_size();
    let bytes = left.saturating_sub(but_mib << 20) as i64;
    let file = fs::File::create(&filler).unwrap();
    nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, bytes).unwrap();
    filler
}

fn assert_names_the_medium(vm: &Vm<'_>, pool: &str) {
    let status = vm.status();
    let notice = status["notice"].as_str().unwrap();
    for words in ["medium", "tmpfs", pool, "does not help"] {
        assert!(notice.contains(words), "no {words} in: {notice}");
    }
}

/// The pool promises no more than its medium has, but others fill the medium: nobody is killed.
#[test]
fn a_medium_that_a_stranger_fills_holds_the_guest_until_there_is_room() {
    let Some(medium) = SmallMedium::mount("stranger", 160) else {
        return;
    };
    let host = Host::without_pool();
    let pool = medium.path().join("pool").to_str().unwrap().to_owned();
    host.run(&["pool", "create", &pool, "--size", "128M"]).ok();
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap().to_owned();
    let mut vm = host.boot(&["--kernel", &kernel, "--pool", &pool], 96, 2);
    vm.ask("fill 8 1");
    let filler = fill_medium(&medium, 2);
    // Memory that the guest has never touched.
    vm.console().say("fill 40 2");
    wait_for_state(&vm, "no-space");
    assert_names_the_medium(&vm, &pool);
    assert_stands_still(&vm);
    let free = host.json(&["pool", "status", &pool])["free_bytes"]
        .as_u64()
        .unwrap();
    assert!(free > 16 << 20, "the pool itself has room: {free}");
    host.run(&["snapshot", &vm.name, "a"])
        .refused(5, "the medium of the pool is full");
    host.run(&["resume", &vm.name]).refused(5, "'df'");
    fs::remove_file(&filler).unwrap();
    wait_until(&vm, "relieved", |status| status["notice"].is_null());
    assert!(vm.ask("check").contains("check ok"));
    host.run(&["snapshot", &vm.name, "b"]).ok();
    // The same for writes to what a snapshot has, and for a copy.
    let filler = fill_medium(&medium, 2);
    vm.console().say("fill 40 3");
    wait_for_state(&vm, "no-space");
    fs::remove_file(&filler).unwrap();
    wait_until(&vm, "relieved", |status| status["notice"].is_null());
    assert!(vm.ask("check").contains("check ok"));
    vm.stop();
    host.run(&["pool", "check", &pool]).ok();
}

/// The remedy that a VM without space names works on a full medium: a removal needs blocks, too.
#[test]
fn a_removal_on_a_full_medium_is_done_and_the_guest_goes_on() {
    let Some(medium) = SmallMedium::mount("removal", 64) else {
        return;
    };
    let host = Host::without_pool();
    let pool = medium.path().join("pool").to_str().unwrap().to_owned();
    host.run(&["pool", "create", &pool, "--size", "100M", "--overcommit"])
        .ok();
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap().to_owned();
    let mut vm = host.boot(&["--kernel", &kernel, "--pool", &pool], 48, 1);
    vm.ask("fill 24 1");
    for number in 0..4 {
        vm.snapshot(&format!("s{number}"));
        vm.ask(&format!("write {} 1500", number * 1500));
    }
    let filler = fill_medium(&medium, 0);
    vm.ask("churn on 5 rand");
    wait_for_state(&vm, "no-space");
    for number in 0..4 {
        host.run(&["rm", &format!("s{number}"), "--pool", &pool])
            .ok();
    }
    fs::remove_file(&filler).unwrap();
    wait_until(&vm, "relieved", |status| status["notice"].is_null());
    assert_exact(&mut vm);
    vm.stop();
    host.run(&["pool", "check", &pool]).ok();
}
