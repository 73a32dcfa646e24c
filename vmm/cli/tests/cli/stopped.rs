//! Processes that are stopped, or gone, while others wait for them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nvvmm_snapshot::{CreateOptions, Pool, ProcessState};

use crate::played_vm::PlayedVm;
use crate::vms::deaf_vm;
use crate::world::{Finished, World};

/// A process that is killed when it is not needed any more.
struct Killed(Child);

impl Killed {
    fn stop(&self) {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGSTOP).unwrap();
        while !ProcessState::of(self.0.id()).unwrap().is_stopped() {
            thread::yield_now();
        }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn new_pool(path: &Path) {
    let options = CreateOptions {
        size_bytes: 16 << 20,
        overcommit: true,
    };
    drop(Pool::create(path, &options).unwrap());
}

/// A command that waits at a fault point as long as the file `wait` is there.
fn waiting_at(world: &World, point: &str, arguments: &[&str]) -> Killed {
    let file = world.path("wait");
    fs::write(&file, "").unwrap();
    let mut child = world
        .command(arguments)
        .env("NVVMM_FAULT_WAIT", format!("{point}:{}", file.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, format!("NVVMM_FAULT_WAIT: waits at {point}\n"));
    child.stderr = Some(stderr.into_inner());
    Killed(child)
}

/// Lets it go on, and waits for its end.
fn go_on(world: &World, mut waiting: Killed) -> Finished {
    fs::remove_file(world.path("wait")).unwrap();
    let stdout = waiting.0.stdout.take().unwrap();
    let stderr = waiting.0.stderr.take().unwrap();
    let status = waiting.0.wait().unwrap();
    Finished::from(std::process::Output {
        status,
        stdout: BufReader::new(stdout).lines().map_while(Result::ok).fold(
            Vec::new(),
            |mut all, line| {
                all.extend(line.into_bytes());
                all
            },
        ),
        stderr: BufReader::new(stderr).lines().map_while(Result::ok).fold(
            Vec::new(),
            |mut all, line| {
                all.extend(line.into_bytes());
                all
            },
        ),
    })
}

#[test]
fn commands_are_told_which_stopped_process_has_the_pool_locked() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = path.to_str().unwrap();
    new_pool(&path);
    let holder = waiting_at(&world, "open.recovered", &["pool", "status", pool]);
    holder.stop();
    let pid = holder.0.id();
    let told = format!("the pool is locked by process {pid} (nvvmm pool status), which is stopped");
    // A command that confines itself does not see other processes: it waits longer, and tells
    // their number alone.
    let commands: [&[&str]; 2] = [&["snapshots", "--pool", pool], &["rm", "x", "--pool", pool]];
    thread::scope(|scope| {
        for arguments in commands {
            scope.spawn(|| {
                let finished = world.nvvmm(arguments);
                finished.refused(4, &told);
                let remedy = format!("kill -CONT {pid}");
                assert!(finished.stderr.contains(&remedy), "{}", finished.stderr);
            });
        }
    });
    kill(Pid::from_raw(pid as i32), Signal::SIGCONT).unwrap();
    assert_eq!(go_on(&world, holder).code, 0);
    world.nvvmm(&["pool", "check", pool]).done();
}

#[test]
fn a_pool_that_is_deleted_while_it_is_opened_is_not_used() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = path.to_str().unwrap();
    new_pool(&path);
    let opener = waiting_at(&world, "medium.opened", &["pool", "status", pool]);
    world.nvvmm(&["pool", "delete", pool]).done();
    let finished = go_on(&world, opener);
    assert_eq!(finished.code, 3, "{}{}", finished.stdout, finished.stderr);
    assert!(!path.exists());
}

#[test]
fn a_pool_that_takes_the_place_of_a_deleted_one_is_the_one_that_is_opened() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = path.to_str().unwrap();
    new_pool(&path);
    let opener = waiting_at(
        &world,
        "medium.opened",
        &["pool", "grow", "--size", "+8M", pool],
    );
    world.nvvmm(&["pool", "delete", pool]).done();
    new_pool(&path);
    assert_eq!(go_on(&world, opener).code, 0);
    assert_eq!(path.metadata().unwrap().size(), 24 << 20);
}

#[test]
fn a_delete_does_not_take_the_pool_that_was_made_meanwhile_and_is_in_use() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = path.to_str().unwrap();
    new_pool(&path);
    let deleter = waiting_at(&world, "medium.opened", &["pool", "delete", pool]);
    world.nvvmm(&["pool", "delete", pool]).done();
    new_pool(&path);
    let user = Pool::open(&path).unwrap();
    go_on(&world, deleter).refused(4, "in use");
    assert!(path.exists());
    drop(user);
}

#[test]
fn commands_are_told_that_a_vm_process_is_stopped() {
    let world = World::new();
    let deaf = Killed(deaf_vm(&world));
    deaf.stop();
    let pid = deaf.0.id();
    let listed = world.nvvmm(&["ps", "--json"]).json();
    assert_eq!(
        (listed[0]["state"].as_str(), listed[0]["pid"].as_u64()),
        (Some("stopped"), Some(pid.into()))
    );
    let told = format!("the VM process {pid} is stopped");
    let commands: [&[&str]; 5] = [
        &["pause", "deaf"],
        &["snapshot", "deaf", "s"],
        &["console", "deaf"],
        &["stop", "deaf"],
        &["checkpoint", "deaf"],
    ];
    thread::scope(|scope| {
        for arguments in commands {
            scope.spawn(|| world.nvvmm(arguments).refused(4, &told));
        }
    });
    world.nvvmm(&["stop", "deaf", "--force"]).done();
}

#[test]
fn stop_force_kills_the_vm_and_not_whom_a_file_names() {
    let world = World::new();
    let mut deaf = Killed(deaf_vm(&world));
    let mut bystander = Killed(
        Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let record = world.path("run/deaf.json");
    let text = fs::read_to_string(&record).unwrap();
    let (vm, other) = (deaf.0.id(), bystander.0.id());
    let forged = text.replace(&format!("\"pid\":{vm}"), &format!("\"pid\":{other}"));
    assert_ne!(forged, text);
    fs::write(&record, forged).unwrap();
    world.nvvmm(&["stop", "deaf", "--force"]).done();
    assert!(!deaf.0.wait().unwrap().success());
    assert!(bystander.0.try_wait().unwrap().is_none(), "it was killed");
}

#[test]
fn stop_force_kills_a_vm_whose_socket_was_removed() {
    let world = World::new();
    let mut deaf = Killed(deaf_vm(&world));
    fs::remove_file(world.path("run/deaf.sock")).unwrap();
    fs::remove_file(world.path("run/deaf.json")).unwrap();
    let listed = world.nvvmm(&["ps", "--json"]).json();
    assert_eq!(
        (listed[0]["state"].as_str(), listed[0]["pid"].as_u64()),
        (Some("unreachable"), Some(deaf.0.id().into()))
    );
    world.nvvmm(&["stop", "deaf", "--force"]).done();
    assert!(!deaf.0.wait().unwrap().success());
}

#[test]
fn stop_force_does_not_reach_into_another_pid_namespace() {
    let world = World::new();
    let isolated = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork"]);
        command.args(["--mount-proc", program]);
        command
    };
    if !isolated("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("SKIPPED: no PID namespace can be made here");
        return;
    }
    let _vm = PlayedVm::play(&world, "web");
    let finished = isolated(env!("CARGO_BIN_EXE_nvvmm"))
        .args(["stop", "web", "--force"])
        .env("NVVMM_RUNTIME_DIR", world.path("run"))
        .output()
        .unwrap();
    Finished::from(finished).refused(4, "another PID namespace");
    assert_eq!(world.nvvmm(&["pause", "web"]).done(), "");
}

/// A command under a limit of a file's size, in blocks of 512 or 1,024 bytes.
fn limited(world: &World, blocks: u32, arguments: &[&str]) -> Finished {
    let plain = world.command(arguments);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -f {blocks}; exec \"$@\""), "sh"])
        .arg(plain.get_program())
        .args(plain.get_args());
    for (variable, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    Finished::from(command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_file_larger_than_the_limit_is_refused_in_words() {
    let world = World::new();
    let path = world.path("a.pool");
    let pool = path.to_str().unwrap();
    let create = ["pool", "create", pool, "--size", "64M"];
    limited(&world, 1024, &create).refused(4, "ulimit -f");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    world.nvvmm(&create).done();
    let run = [
        "run",
        "--kernel",
        "/proc/self/exe",
        "--pool",
        pool,
        "--detach",
    ];
    limited(&world, 1024, &run).refused(4, "ulimit -f");
    let grow = ["pool", "grow", pool, "--size", "+8M"];
    limited(&world, 1024, &grow).refused(4, "ulimit -f");
    // No check before: the write itself fails, and the process does not die of it.
    let pages = world.path("man");
    fs::create_dir(&pages).unwrap();
    limited(&world, 1, &["man", pages.to_str().unwrap()]).refused(1, "File too large");
}
