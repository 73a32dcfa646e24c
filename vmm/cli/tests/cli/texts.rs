//! The look of messages, and what `-v` shows.

use nvvmm::control::NameChoice;

use crate::played_vm::PlayedVm;
use crate::world::{Finished, World};

#[test]
fn all_errors_have_one_prefix() {
    let world = World::new();
    for (arguments, begin) in [
        (
            &["run", "--kernel", "k", "--memory", "3M"][..],
            "nvvmm: error: invalid value '3M' for '--memory <SIZE>': 3 MiB is not a multiple of \
             2M: the nearest sizes are 2M and 4M\n",
        ),
        (
            &["checkpoint", "web", "--keep", "0"],
            "nvvmm: error: invalid value '0' for '--keep <COUNT>': 0 is too small: give a number \
             from 1 to 1000\n",
        ),
        (
            &["snapshot", "web", "s", "--durability", "disk"],
            "nvvmm: error: invalid value 'disk' for '--durability <DURABILITY>'\n  \
             [possible values: process, host, power]\n",
        ),
        (&["fly"], "nvvmm: error: unrecognized subcommand 'fly'\n"),
        (
            &["pause", "ghost"],
            "nvvmm: error: no VM 'ghost' is running\n",
        ),
    ] {
        let refused = world.nvvmm(arguments);
        assert!(refused.stderr.starts_with(begin), "{}", refused.stderr);
        assert!(!refused.stderr.contains('\x1b'), "{:?}", refused.stderr);
    }
    let pool = world.path("a.pool");
    world
        .nvvmm(&["pool", "create", pool.to_str().unwrap(), "--size", "4M"])
        .refused(
            2,
            "nvvmm: error: a pool of 4 MiB is not possible: the smallest pool has 8 MiB",
        );
}

#[test]
fn no_error_has_the_numbers_of_the_system() {
    let world = World::new();
    std::fs::create_dir(world.path("directory")).unwrap();
    let directory = world.path("directory");
    let directory = directory.to_str().unwrap();
    for arguments in [
        &["pool", "status", "/nowhere/a.pool"][..],
        &["pool", "create", "/nowhere/a.pool", "--size", "8M"],
        &["pool", "status", directory],
        &["man", "/proc/none"],
        &["bench", "--from", "/nowhere"],
        &["bench", "--from", directory],
        &["run", "--kernel", directory],
        &["receive", "/nowhere"],
    ] {
        let refused = world.nvvmm(arguments);
        assert!(refused.code > 0, "{arguments:?}");
        for word in ["os error", "Os {", "kind:"] {
            assert!(!refused.stderr.contains(word), "{}", refused.stderr);
        }
        assert!(
            refused.stderr.starts_with("nvvmm: error: "),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn a_command_to_a_vm_shows_its_steps_with_v() {
    let world = World::new();
    let _vm = PlayedVm::play(&world, "web");
    assert_eq!(world.nvvmm(&["pause", "web"]).stderr, "");
    let steps = world.nvvmm(&["pause", "web", "-v"]);
    assert_eq!((steps.code, steps.stdout.as_str()), (0, ""));
    let own = std::process::id();
    let lines: Vec<&str> = steps.stderr.lines().collect();
    let begins = [
        format!("nvvmm: connected to the VM process {own} at "),
        format!("nvvmm: asked the VM process {own} for a pause: it answered after "),
        "nvvmm: done after ".to_owned(),
    ];
    assert_eq!(lines.len(), begins.len(), "{lines:?}");
    for (line, begin) in lines.iter().zip(&begins) {
        assert!(line.starts_with(begin), "{line}");
    }

    // What it was refused, too.
    let refused = world.nvvmm(&["resume", "web", "-v"]);
    assert!(
        refused.stderr.contains("for a resume: after "),
        "{}",
        refused.stderr
    );
    // More with more, and by a filter.
    let details = world.nvvmm(&["pause", "web", "-vv"]);
    assert!(details.stderr.contains("request"), "{}", details.stderr);
    let mut filtered = world.command(&["pause", "web"]);
    let filtered = filtered.env("NVVMM_LOG", "nvvmm::control=info").output();
    let filtered = Finished::from(filtered.unwrap()).stderr;
    assert!(filtered.contains("asked the VM process"), "{filtered}");
    assert!(!filtered.contains("done after"), "{filtered}");
}

#[test]
fn a_command_to_a_pool_shows_its_steps_with_v() {
    let world = World::new();
    let pool = world.path("a.pool");
    let pool = pool.to_str().unwrap();
    world
        .nvvmm(&["pool", "create", pool, "--size", "16M"])
        .done();
    for command in [&["snapshots", "--pool", pool][..], &["pool", "check", pool]] {
        let steps = world.nvvmm(&[command, &["-v"]].concat()).stderr;
        let opened = format!("nvvmm: opened the pool {pool} (16 MiB, ");
        assert!(steps.contains(&opened), "{steps}");
        assert!(
            steps.lines().all(|line| line.starts_with("nvvmm: ")),
            "{steps}"
        );
    }
}

#[test]
fn a_snapshot_is_reported_on_one_line_and_with_its_phases_on_request() {
    let world = World::new();
    let _vm = PlayedVm::play(&world, "web");
    let line = world.nvvmm(&["snapshot", "web", "one"]);
    assert_eq!(line.done().lines().count(), 1, "{}", line.stdout);
    let more = world.nvvmm(&["snapshot", "web", "two", "--verbose"]).stdout;
    assert!(more.lines().count() > 3, "{more}");
    assert!(more.contains("\n  durability "), "{more}");
    let ended = world.nvvmm(&["checkpoint", "web", "--stop"]);
    assert_eq!(ended.done().lines().count(), 1, "{}", ended.stdout);
}

#[test]
fn a_vm_that_takes_no_connection_is_told_in_words() {
    let world = World::new();
    let _claim = world
        .registry()
        .claim(&NameChoice::MadeUp, std::path::Path::new("/pool"))
        .unwrap();
    let refused = world.nvvmm(&["pause", "vm-1"]);
    refused.refused(4, "does not answer: No such file or directory\n");
}
