//! Habits of hands: several names and patterns, short names, quiet output, errors of writing,
//! files that exist, completion.

use std::fs;
use std::process::{Command, Stdio};

use crate::played_vm::PlayedVm;
use crate::pools::{commit, small_pool};
use crate::vms::deaf_vm;
use crate::world::{Finished, World};

#[test]
fn one_command_is_for_several_vms() {
    let world = World::new();
    let [web, db, other] = ["web-1", "web-2", "other"].map(|name| PlayedVm::play(&world, name));
    world.nvvmm(&["pause", "web-1", "other"]).done();
    world.nvvmm(&["suspend", "web-*"]).done();
    assert_eq!(
        (web.asked().len(), db.asked().len(), other.asked().len()),
        (2, 1, 1)
    );
    world.nvvmm(&["pause", "--all"]).done();
    world.nvvmm(&["pause", "-f", "nothing-*"]).done();
    assert_eq!(
        (web.asked().len(), db.asked().len(), other.asked().len()),
        (3, 2, 2)
    );
    world.nvvmm(&["pause"]).refused(2, "");
    world
        .nvvmm(&["pause", "--all", "web-1"])
        .refused(2, "cannot be used with");
    world.nvvmm(&["stop", "web-?"]).done();
    assert_eq!(world.nvvmm(&["ps", "-q"]).done(), "other\n");
    world.nvvmm(&["stop", "-a"]).done();
    world.nvvmm(&["stop", "-a"]).done();
    assert_eq!(world.nvvmm(&["ls", "--quiet"]).done(), "");
}

#[test]
fn those_that_fail_are_named_and_the_others_go_on() {
    let world = World::new();
    let vms = ["a", "b"].map(|name| PlayedVm::play(&world, name));
    let refused = world.nvvmm(&["pause", "x*", "a", "ghost", "b"]);
    refused.refused(3, "no VM matches 'x*'");
    assert!(
        refused.stderr.contains("no VM 'ghost' is running"),
        "{}",
        refused.stderr
    );
    assert!(vms.iter().all(|vm| vm.asked() == ["pause"]));
    // Both are full; the code is that of the first error.
    let full = world.nvvmm(&["resume", "a", "ghost", "b"]);
    full.refused(
        5,
        "nvvmm: error: a: the pool is full\n  try: remove a snapshot\n",
    );
    assert!(
        full.stderr.contains("nvvmm: error: b: the pool is full"),
        "{}",
        full.stderr
    );
}

#[test]
fn kill_ends_a_vm_that_does_not_answer() {
    for command in ["kill", "destroy"] {
        let world = World::new();
        let mut child = deaf_vm(&world);
        world.nvvmm(&[command, "dea*"]).done();
        assert!(!child.wait().unwrap().success());
        world
            .nvvmm(&[command, "deaf"])
            .refused(3, "no VM 'deaf' is running");
        world.nvvmm(&[command, "--force", "dea*"]).done();
    }
}

#[test]
fn a_guest_that_cannot_be_asked_is_not_shut_down_unless_forced() {
    let world = World::new();
    let _web = PlayedVm::play(&world, "web");
    let late = world.nvvmm(&["shutdown", "web", "--timeout", "0"]);
    late.refused_with_remedy(
        4,
        "the guest of VM 'web' cannot be asked to shut down: the agent in web did not answer",
        "'nvvmm stop web' ends the VM without its guest",
    );
    assert!(
        late.stderr
            .contains("it has no driver for the power button"),
        "{}",
        late.stderr
    );
    assert_eq!(world.nvvmm(&["ps", "-q"]).done(), "web\n");
    let listens = PlayedVm::play(&world, "listens");
    let late = world.nvvmm(&["shutdown", "listens", "--timeout", "0"]);
    late.refused(4, "the guest of VM 'listens' has not shut down in 0s");
    assert!(listens.asked().contains(&"power button".to_owned()));
    drop(listens);
    let mut child = deaf_vm(&world);
    let forced = world.nvvmm(&["shutdown", "-t", "0", "-f", "deaf", "ghost"]);
    forced.refused(3, "; its process is killed\n");
    assert!(
        forced.stderr.contains("no VM 'ghost' is running"),
        "{}",
        forced.stderr
    );
    assert!(!child.wait().unwrap().success());
}

#[test]
fn snapshots_are_removed_by_pattern() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = small_pool(&path);
    let holder = pool.hold("web").unwrap();
    for name in ["web@1", "web@2", "web-2", "base"] {
        commit(&holder, name, None);
    }
    drop(holder);
    let path = path.to_str().unwrap();
    let nvvmm = |arguments: &[&str]| world.nvvmm(&[arguments, &["--pool", path]].concat());
    assert_eq!(
        nvvmm(&["images", "-q"]).done(),
        "web@1\nweb@2\nweb-2\nbase\n"
    );
    assert_eq!(
        nvvmm(&["rm", "-n", "web@*", "base"]).done(),
        "would remove web@1\nwould remove web@2\nwould remove base\n"
    );
    nvvmm(&["rm", "web/*"]).refused(2, "@");
    nvvmm(&["rm", "web#1"]).refused(2, "'#' cannot be in a name: use A-Z a-z 0-9 . _ - @");
    nvvmm(&["rm", "x*"]).refused(3, "no snapshot matches 'x*'");
    assert_eq!(nvvmm(&["rm", "-f", "x*", "ghost"]).done(), "");
    let removed = nvvmm(&["rmi", "web@*", "ghost"]);
    assert_eq!(removed.code, 3, "{}", removed.stderr);
    assert_eq!(removed.stdout.lines().count(), 2, "{}", removed.stdout);
    let _base = PlayedVm::play(&world, "web");
    nvvmm(&["rm", "web"]).refused_with_remedy(3, "'web'", "'nvvmm stop web' ends it");
    assert_eq!(nvvmm(&["snapshots", "-q"]).done(), "web-2\nbase\n");
    assert_eq!(
        nvvmm(&["rm", "--all", "--json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(nvvmm(&["snapshots", "-q"]).done(), "");
}

/// Runs a command with stdout as the shell makes it of `redirection`.
fn redirected(world: &World, arguments: &[&str], redirection: &str) -> Finished {
    let nvvmm = world.command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")]);
    shell.arg(nvvmm.get_program()).args(nvvmm.get_args());
    for (name, value) in nvvmm.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    Finished::from(shell.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = small_pool(&path);
    let holder = pool.hold("web").unwrap();
    commit(&holder, "base", None);
    drop(holder);
    let _web = PlayedVm::play(&world, "web");
    let pool = path.to_str().unwrap();
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["help", "ps"],
        &["pool", "create", "--help"],
        &["ps"],
        &["ps", "-q"],
        &["ps", "--json"],
        &["stats", "web"],
        &["stats", "web", "--json"],
        &["snapshots", "--pool", pool],
        &["snapshots", "-q", "--pool", pool],
        &["snapshots", "--json", "--pool", pool],
        &["inspect", "--pool", pool],
        &["pool", "status", pool],
        &["pool", "status", pool, "--json"],
        &["pool", "map", pool],
        &["pool", "check", pool],
        &["snapshot", "web", "s"],
        &["checkpoint", "web", "--json"],
        &["completions", "bash"],
        &["rm", "-n", "base", "--pool", pool],
        &["send", "base", "--pool", pool],
        &["export", "base", "--core", "-", "--pool", pool],
        &["cp", "web:/x", "-"],
    ] {
        // A copy needs the guest's agent first, unless it is known before that it is of no use.
        if arguments[0] != "cp" && arguments[0] != "export" {
            let full = redirected(&world, arguments, ">/dev/full");
            full.refused(1, "No space left on device");
            assert!(
                full.stderr.starts_with("nvvmm: "),
                "{arguments:?}: {}",
                full.stderr
            );
        }
        let closed = redirected(&world, arguments, ">&-");
        closed.refused(1, "write to stdout: it is closed");
        assert!(
            closed.stderr.starts_with("nvvmm: "),
            "{arguments:?}: {}",
            closed.stderr
        );
    }
    // There is nothing to print.
    assert_eq!(redirected(&world, &["pause", "web"], ">&-").code, 0);
    assert_eq!(redirected(&world, &["ps"], ">/dev/null").code, 0);
    // A reader that goes away is no error.
    for arguments in [&["--help"][..], &["ps"], &["send", "base", "--pool", pool]] {
        let piped = redirected(&world, arguments, "| true");
        assert_eq!(
            (piped.code, piped.stderr.contains("panicked")),
            (0, false),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_file_that_exists_is_replaced_only_with_force() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = small_pool(&path);
    let holder = pool.hold("web").unwrap();
    commit(&holder, "base", None);
    drop(holder);
    let pool = path.to_str().unwrap();
    let file = world.path("precious");
    fs::write(&file, "precious").unwrap();
    let out = file.to_str().unwrap();
    let pages = world.path("pages");
    let man = pages.to_str().unwrap();
    world.nvvmm(&["man", man]).done();
    for arguments in [
        &["pool", "map", pool, "--svg", out][..],
        &["send", "base", "-o", out, "--pool", pool],
        &["export", "base", "--core", out, "--pool", pool],
        &["cp", "web:/x", out],
        &["man", man],
    ] {
        let refused = world.nvvmm(arguments);
        refused.refused_with_remedy(4, "exists", "--force");
        assert_eq!(fs::read(&file).unwrap(), b"precious", "{arguments:?}");
    }
    world.nvvmm(&["man", man, "-f"]).done();
    world
        .nvvmm(&["pool", "map", pool, "--svg", out, "-f"])
        .done();
    assert!(fs::read_to_string(&file).unwrap().starts_with("<svg"));
    world
        .nvvmm(&["send", "base", "-o", out, "-f", "--pool", pool])
        .done();
    assert!(
        !fs::read_to_string(&file)
            .unwrap_or_default()
            .starts_with("<svg")
    );
    let results = world.path("results");
    fs::create_dir(&results).unwrap();
    fs::write(results.join("performance.json"), "{}").unwrap();
    world
        .nvvmm(&["bench", "--out", results.to_str().unwrap()])
        .refused_with_remedy(4, "performance.json exists", "--force");
}

#[test]
fn no_command_is_for_tests_and_an_option_from_the_environment_is_not_required() {
    let world = World::new();
    for shown in [
        &["--help"][..],
        &["completions", "bash"],
        &["completions", "zsh"],
    ] {
        assert!(!world.nvvmm(shown).done().contains("audit"), "{shown:?}");
    }
    let guessed = world.nvvmm(&["audi"]);
    guessed.refused(2, "");
    assert!(!guessed.stderr.contains("audit"), "{}", guessed.stderr);
    let mut command = world.command(&["rm"]);
    let usage = command
        .env("NVVMM_POOL", "/dev/shm/x.pool")
        .output()
        .unwrap();
    let usage = Finished::from(usage);
    usage.refused(2, "<NAME>");
    assert!(!usage.stderr.contains("--pool <FILE>"), "{}", usage.stderr);
    let mut command = world.command(&["snapshots"]);
    let named = command
        .env("NVVMM_POOL", world.path("none"))
        .output()
        .unwrap();
    Finished::from(named).refused(3, "none");
    let mut command = world.command(&["bench", "--nonsense"]);
    let usage = command
        .env("NVVMM_BAREMETAL_GUEST", "/guest")
        .output()
        .unwrap();
    let usage = Finished::from(usage);
    usage.refused(2, "Usage:");
    assert!(!usage.stderr.contains("--guest <FILE>"), "{}", usage.stderr);
}

/// Candidates for the last of these words, in this shell's form.
fn completed(world: &World, shell: &str, words: &[&str]) -> Vec<String> {
    let mut command = world.command(&[&["--", "nvvmm"], words].concat());
    command
        .env("NVVMM_COMPLETE", shell)
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .env("_CLAP_IFS", "\n");
    let text = Finished::from(command.output().unwrap()).done().to_owned();
    let names = text
        .lines()
        .map(|line| line.split(['\t', ':']).next().unwrap().to_owned());
    names.collect()
}

#[test]
fn names_are_completed_in_each_shell() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = small_pool(&path);
    let holder = pool.hold("web").unwrap();
    for name in ["web@1", "web@2", "base"] {
        commit(&holder, name, None);
    }
    let _vms = ["web", "db"].map(|name| PlayedVm::play(&world, name));
    let pool = path.to_str().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let completed = |words: &[&str]| completed(&world, shell, words);
        assert_eq!(completed(&["stop", ""]), ["db", "web"], "{shell}");
        assert_eq!(completed(&["stop", "db", "w"]), ["web"], "{shell}");
        assert_eq!(completed(&["console", "w"]), ["web"], "{shell}");
        assert_eq!(completed(&["exec", "d"]), ["db"], "{shell}");
        assert_eq!(
            completed(&["rm", "--pool", pool, "web@"]),
            ["web@1", "web@2"],
            "{shell}"
        );
        assert_eq!(
            completed(&["restore", "--pool", pool, "b"]),
            ["base"],
            "{shell}"
        );
        assert_eq!(
            completed(&["rewind", "--pool", pool, "web", "--to", "ba"]).len(),
            1
        );
        assert!(completed(&["sto"]).contains(&"stop".to_owned()), "{shell}");
        assert!(
            completed(&["stop", "--fo"]).contains(&"--force".to_owned()),
            "{shell}"
        );
        assert!(completed(&["cp", "we"])[0].starts_with("web"), "{shell}");
    }
    // Nothing is made where there is nothing.
    fs::remove_dir_all(world.path("run")).unwrap_or_default();
    assert_eq!(completed(&world, "bash", &["stop", "w"]), [""; 0]);
    assert!(!world.path("run").exists());
}

#[test]
fn a_tab_in_bash_completes_the_name_of_a_checkpoint() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = small_pool(&path);
    let holder = pool.hold("web").unwrap();
    for name in ["web@17", "base"] {
        commit(&holder, name, None);
    }
    let script = world.path("completions");
    fs::write(&script, world.nvvmm(&["completions", "bash"]).done()).unwrap();
    let nvvmm = world.command(&[]);
    let program = nvvmm.get_program().to_str().unwrap();
    let test = format!(
        "nvvmm() {{ \"{program}\" \"$@\"; }}; export NVVMM_POOL={}; . {}\n\
         COMP_TYPE=9 COMP_LINE='nvvmm rm web@1' COMP_POINT=14 COMP_CWORD=4\n\
         COMP_WORDS=(nvvmm rm web @ 1)\n_clap_complete_nvvmm nvvmm 1 @\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        path.display(),
        script.display()
    );
    let Ok(answer) = Command::new("bash")
        .args(["--norc", "-c", &test])
        .env("NVVMM_RUNTIME_DIR", world.path("run"))
        .output()
    else {
        println!("SKIPPED: bash is not here");
        return;
    };
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout),
        "17\n",
        "{answer:?}"
    );
}
