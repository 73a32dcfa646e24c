//! Exit codes depend on the cause: docs/using/operations.md has the table.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::world::{Finished, World};

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

#[test]
fn a_directory_of_another_user_is_a_lack_of_permission() {
    let world = World::new();
    let others = world.path("others");
    fs::create_dir(&others).unwrap();
    fs::set_permissions(&others, fs::Permissions::from_mode(0o700)).unwrap();
    // The root directory belongs to another user than an ordinary one.
    let others = match is_root() {
        true => {
            chown(&others, Some(1), Some(1)).unwrap();
            others
        }
        false => "/".into(),
    };
    let mut ps = world.command(&["ps"]);
    ps.env("NVVMM_RUNTIME_DIR", &others);
    Finished::from(ps.output().unwrap()).refused(8, "belongs to another user");
}

#[test]
fn a_pool_without_permission_is_a_lack_of_permission() {
    let world = World::new();
    let pool = world.path("pool");
    let pool = pool.to_str().unwrap();
    world
        .nvvmm(&["pool", "create", pool, "--size", "8M"])
        .done();
    fs::set_permissions(pool, fs::Permissions::from_mode(0o000)).unwrap();
    if is_root() {
        println!("SKIPPED: root may open every file");
        return;
    }
    for command in [
        &["snapshots", "--pool", pool][..],
        &["pool", "status", pool],
        &["pool", "check", pool],
        &["rm", "x", "--pool", pool],
    ] {
        world.nvvmm(command).refused(8, "Permission denied");
    }
}

#[test]
fn what_is_given_in_the_wrong_kind_is_wrong_usage() {
    let world = World::new();
    let file = world.path("file");
    fs::write(&file, "text").unwrap();
    let mut ps = world.command(&["ps"]);
    ps.env("NVVMM_RUNTIME_DIR", &file);
    Finished::from(ps.output().unwrap()).refused(2, "is not a directory");
    world
        .nvvmm(&["no-such-command"])
        .refused(2, "no-such-command");
    world.nvvmm(&["stop"]).refused(2, "required");
}

#[test]
fn what_does_not_exist_is_not_found() {
    let world = World::new();
    world.nvvmm(&["stop", "web"]).refused(3, "web");
    world
        .nvvmm(&["snapshots", "--pool", "/nowhere/pool"])
        .refused(3, "/nowhere/pool");
    world
        .nvvmm(&["receive", "/nowhere/stream", "--pool", "/nowhere/pool"])
        .refused(3, "/nowhere/stream");
}
