//! Commands that parse what others wrote confine themselves. The program tries, where it would
//! parse, what a program that was taken over would try (`NVVMM_TEST_TRY`, builds for tests only).

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use super::world::World;

/// Attempts that get an error: libraries make such calls, too.
const REFUSED: [&str; 5] = ["read", "list", "create", "remove", "rename"];
/// Attempts that end the process: no correct program makes them here.
const DEADLY: [&str; 16] = [
    "exec",
    "spawn",
    "tcp",
    "unix",
    "kill",
    "signal",
    "ptrace",
    "read-memory",
    "mount",
    "unshare",
    "bpf",
    "keyctl",
    "userfaultfd",
    "io-uring",
    "setuid",
    "type",
];

struct Tried(Output);

impl Tried {
    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// The kernel killed the process for the attempt.
    fn was_killed(&self) -> bool {
        self.0.status.signal() == Some(31)
    }

    fn was_refused(&self, what: &str) -> bool {
        let refused = format!("{what} was refused");
        self.was_killed() || self.stderr().contains(&refused)
    }
}

fn world() -> World {
    let world = World::new();
    let pool = world.path("pool");
    world
        .nvvmm(&["pool", "create", pool.to_str().unwrap(), "--size", "8M"])
        .done();
    fs::write(world.path("victim"), "a file of the user").unwrap();
    world
}

fn attempt(world: &World, what: &str, arguments: &[&str]) -> Tried {
    let mut command = world.command(arguments);
    command
        .env("NVVMM_POOL", world.path("pool"))
        .env("NVVMM_TEST_TRY", what)
        .env("NVVMM_TEST_TRY_FILE", world.path("victim"));
    Tried(command.output().unwrap())
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "release builds try nothing")]
fn a_confined_command_does_nothing_that_is_forbidden() {
    let world = world();
    for what in REFUSED {
        let tried = attempt(&world, what, &["inspect"]);
        assert!(tried.was_refused(what), "{what}: {:?}", tried.0);
        assert!(tried.0.status.success(), "{what}: {:?}", tried.0);
    }
    for what in DEADLY {
        let tried = attempt(&world, what, &["inspect"]);
        assert!(tried.was_killed(), "{what}: {:?}", tried.0);
    }
    assert!(world.path("victim").exists());
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "release builds try nothing")]
fn each_command_that_parses_what_others_wrote_is_confined() {
    let world = world();
    let core = world.path("core");
    let svg = world.path("svg");
    let (core, svg) = (core.to_str().unwrap(), svg.to_str().unwrap());
    let image = world.path("victim");
    let image = image.to_str().unwrap();
    let url = format!("file://{}", world.path("").display());
    let store = url.trim_end_matches('/');
    let pool = world.path("pool");
    let pool = pool.to_str().unwrap();
    // These may remove files in it, and the victim is outside.
    let within = format!("{store}/store");
    fs::create_dir(world.path("store")).unwrap();
    let snapshot = format!("{store}/a");
    for arguments in [
        &["receive"][..],
        &["pull", &snapshot],
        &["remote", "ls", store],
        &["remote", "verify", store],
        &["remote", "rm", &within, "a"],
        &["remote", "gc", &within],
        &["push", "a", &within],
        &["replicate", "--pusher", pool, "--", "web", &within],
        &["disk", "import", image, "--name", "x"],
        &["disk", "export", "nothing", core],
        &["disk", "export", "nothing", "-"],
        &["inspect"],
        &["inspect", "nothing"],
        &["diff", "one", "other"],
        &["export", "nothing", "--core", core],
        &["export", "nothing", "--core", "-"],
        &["pool", "check"],
        &["pool", "scrub"],
        &["pool", "map"],
        &["pool", "map", "--force", "--svg", svg],
    ] {
        for what in ["read", "remove", "exec", "tcp"] {
            let tried = attempt(&world, what, arguments);
            assert!(
                tried.was_refused(what),
                "{arguments:?}: {what}: {:?}",
                tried.0
            );
        }
    }
    // Nothing is left of files that did not become whole, also of killed commands.
    let left: Vec<_> = fs::read_dir(world.path("")).unwrap().flatten().collect();
    let partial = |name: String| name.contains(".nvvmm-");
    let is_left = || {
        let mut names = fs::read_dir(world.path("")).unwrap().flatten();
        names.any(|entry| partial(entry.file_name().to_string_lossy().into_owned()))
    };
    // The helper removes them when it sees the command's end.
    let begun = std::time::Instant::now();
    while is_left() && begun.elapsed() < super::world::HUNG {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(!is_left(), "{left:?}");
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "release builds try nothing")]
fn a_command_that_uses_a_store_on_the_network_may_be_a_client_and_no_more() {
    let world = world();
    // There is no such snapshot: no server is asked.
    let push = ["push", "a", "s3://bucket"];
    for what in ["read", "list", "create", "remove", "rename", "unix"] {
        let tried = attempt(&world, what, &push);
        assert!(tried.was_refused(what), "{what}: {:?}", tried.0);
    }
    let connected = attempt(&world, "tcp", &push);
    let refused = "tcp was refused: Connection refused";
    assert!(connected.stderr().contains(refused), "{:?}", connected.0);
    for arguments in [
        &push[..],
        &["pull", "s3://bucket/a"],
        &["remote", "gc", "s3://bucket"],
    ] {
        for what in ["exec", "kill", "ptrace"] {
            let tried = attempt(&world, what, arguments);
            assert!(tried.was_killed(), "{arguments:?}: {what}: {:?}", tried.0);
        }
    }
}

#[test]
fn a_picture_appears_as_a_whole_or_not_at_all() {
    let world = world();
    let svg = world.path("map.svg");
    let pool = world.path("pool");
    let svg_path = svg.to_str().unwrap();
    let arguments = ["pool", "map", "--force", "--svg", svg_path, "--pool"];
    let arguments = [&arguments[..], &[pool.to_str().unwrap()]].concat();
    world.nvvmm(&arguments).done();
    let drawn = fs::read_to_string(&svg).unwrap();
    assert!(drawn.contains("<svg"), "{drawn}");
    fs::write(&pool, "no pool").unwrap();
    world.nvvmm(&arguments).refused(6, "pool");
    assert_eq!(fs::read_to_string(&svg).unwrap(), drawn);
}
