//! `nvvmm doctor`, and the options of root.

use super::world::World;

#[test]
fn the_doctor_says_if_vms_can_run_and_ends_accordingly() {
    let world = World::new();
    let told = world.nvvmm(&["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
    let can_run = json["vms_can_run"].as_bool().unwrap();
    assert_eq!(told.code, if can_run { 0 } else { 7 });
    let findings = json["checks"].as_array().unwrap();
    for finding in findings {
        let is_well = finding["state"] == "ok";
        assert_eq!(is_well, finding["remedy"].is_null(), "{finding}");
    }
    let table = world.nvvmm(&["doctor"]);
    assert_eq!(table.code, told.code);
    assert!(table.stdout.starts_with("CHECK"), "{}", table.stdout);
}

#[test]
fn a_host_without_a_runtime_directory_of_its_own_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(world.path("run"), open).unwrap();
    let told = world.nvvmm(&["doctor"]);
    assert_eq!(told.code, 7);
    assert!(told.stdout.contains("try: chmod 700"), "{}", told.stdout);
}

#[test]
fn only_root_starts_vms_as_others() {
    let world = World::new();
    let run = |uid: &str| world.nvvmm(&["run", "--kernel", "/no/kernel", "--uid", uid]);
    if !nix::unistd::geteuid().is_root() {
        return run("1").refused(8, "only root");
    }
    run("no-such-user").refused(3, "no user 'no-such-user'");
    run("root").refused(2, "other users than root");
    run("4294967295").refused(3, "no user");
    world
        .nvvmm(&["run", "--kernel", "/no/kernel", "--gid", "1"])
        .refused(2, "--uid");
}
