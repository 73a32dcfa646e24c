//! Checks before a VM or a pool is made: what is refused leaves nothing behind.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::world::{Finished, World};

fn bad(world: &World) -> PathBuf {
    world
        .path("x")
        .with_file_name(OsStr::from_bytes(b"bad\xff"))
}

/// Runs it in `directory`, with this pool and runtime directory if they are given.
fn run(
    world: &World,
    directory: &Path,
    environment: &[(&str, &OsStr)],
    arguments: &[&OsStr],
) -> Finished {
    let mut command = world.command(&[]);
    command.args(arguments).current_dir(directory);
    command.envs(environment.iter().copied());
    Finished::from(command.output().unwrap())
}

/// Names of all files, but those of the runtime directory.
fn files(world: &World) -> Vec<OsString> {
    let entries = fs::read_dir(world.path("x").parent().unwrap()).unwrap();
    let mut names: Vec<OsString> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn a_path_that_is_no_text_is_refused_by_name_before_anything_is_made() {
    let world = World::new();
    let bad = bad(&world);
    let usual = world.path("usual");
    fs::create_dir(&bad).unwrap();
    fs::write(&usual, [0; 4096]).unwrap();
    fs::write(bad.join("kernel"), [0; 4096]).unwrap();
    let here = world.path("x").parent().unwrap().to_owned();
    let before = files(&world);
    let (bad_file, dash) = (bad.join("kernel"), OsStr::new("--detach"));
    let arg = OsStr::new;
    let run_with = |option, path: &Path| {
        let arguments = [arg("run"), dash, arg("--kernel"), usual.as_os_str()];
        let more = [arg(option), path.as_os_str()];
        run(&world, &here, &[], &[&arguments[..], &more].concat())
    };
    let kernel = [arg("run"), dash, arg("--kernel"), bad_file.as_os_str()];
    run(&world, &here, &[], &kernel).refused(2, r"bad\xFF");
    let relative = [arg("run"), dash, arg("--kernel"), arg("kernel")];
    run(&world, &bad, &[], &relative).refused(2, r"bad\xFF");
    run_with("--initramfs", &bad_file).refused(2, r"bad\xFF");
    run_with("--disk", &bad_file).refused(2, r"bad\xFF");
    run_with("--pool", &bad_file).refused(2, r"bad\xFF");
    let bad_pool = bad.join("pool");
    let create = [
        arg("pool"),
        arg("create"),
        bad_pool.as_os_str(),
        arg("--size"),
        arg("8M"),
    ];
    run(&world, &here, &[], &create).refused(2, r"bad\xFF");
    let relative = [arg("pool"), arg("create"), arg("p"), arg("--size=8M")];
    run(&world, &bad, &[], &relative).refused(2, r"bad\xFF");
    for (variable, words) in [
        ("NVVMM_POOL", "the path of the pool"),
        ("NVVMM_RUNTIME_DIR", "the path of the runtime directory"),
    ] {
        let set = [(variable, bad.as_os_str())];
        let usual = [arg("run"), dash, arg("--kernel"), usual.as_os_str()];
        run(&world, &here, &set, &usual).refused(2, words);
    }
    assert_eq!(files(&world), before);
    assert_eq!(fs::read_dir(&bad).unwrap().count(), 1);
    assert_eq!(fs::read_dir(world.path("run")).unwrap().count(), 0);
}

#[test]
fn a_pool_is_not_made_where_none_can_be() {
    let world = World::new();
    let create = |path: &str| world.nvvmm(&["pool", "create", path, "--size", "10M"]);
    create("/dev/dax987.6").refused_with_remedy(3, "there is no device", "/dev/dax*");
    world
        .nvvmm(&["pool", "create", "/dev/dax987.6"])
        .refused(3, "there is no device");
    assert!(!Path::new("/dev/dax987.6").exists());
    create("/dev/null").refused(2, "not a DAX device");
    let directory = world.path("run");
    create(directory.to_str().unwrap()).refused(2, "it is a directory");
    let missing = world.path("none/pool");
    let missing = missing.to_str().unwrap();
    create(missing).refused_with_remedy(3, "there is no directory", "mkdir -p");
    let pipe = world.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    create(pipe.to_str().unwrap()).refused(2, "it is a pipe");
    let status = ["pool", "status", pipe.to_str().unwrap()];
    world.nvvmm(&status).refused(6, "it is a pipe");
    assert_eq!(files(&world), ["pipe", "run"]);
}

#[test]
fn a_limit_that_a_vm_would_meet_is_told_before_it_is_started() {
    let world = World::new();
    let pool = world.path("a.pool");
    let pool = pool.to_str().unwrap();
    world
        .nvvmm(&["pool", "create", pool, "--size", "16M", "--overcommit"])
        .done();
    let limited = |limit: &str| {
        let run = world.command(&["run", "--kernel", "/proc/self/exe", "--pool", pool]);
        let mut command = std::process::Command::new("sh");
        let script = format!("ulimit {limit}; exec \"$@\"");
        command.args(["-c", &script, "sh"]);
        command.arg(run.get_program()).args(run.get_args());
        command.env("NVVMM_RUNTIME_DIR", world.path("run"));
        Finished::from(command.output().unwrap())
    };
    limited("-n 20").refused(4, "ulimit -n");
    limited("-v 400000").refused(4, "ulimit -v");
    assert_eq!(fs::read_dir(world.path("run")).unwrap().count(), 0);
}

#[test]
fn a_pool_larger_than_its_medium_is_told_when_that_is_allowed() {
    let world = World::new();
    let pool = world.path("a.pool");
    let pool = pool.to_str().unwrap();
    let medium = nix::sys::statvfs::statvfs(&world.path("run")).unwrap();
    let free_gib = (medium.blocks_free() * medium.fragment_size()) >> 30;
    let told = |arguments: &[&str]| {
        let done = world.nvvmm(&[&["pool"], arguments].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        let is_told = done
            .stderr
            .starts_with("nvvmm: warning: the medium of the pool");
        assert!(is_told, "{}", done.stderr);
    };
    let size = format!("{}G", free_gib + 1);
    told(&["create", pool, "--size", &size, "--overcommit"]);
    let more = format!("+{}G", free_gib + 1);
    told(&["grow", pool, "--size", &more]);
}
