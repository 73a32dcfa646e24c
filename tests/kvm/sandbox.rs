//! The VM process is confined: a thread of each kind tries what no VM needs, where its guest would
//! be entered, and is refused.

use std::{
    io::Read,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nvvmm_tests::{Host, Outcome, Vm, required};

/// A file beside the VM's own.
fn precious(host: &Host) -> PathBuf {
    host.runtime().join("precious")
}

/// Kinds of threads. Operations build machines and start all other threads.
const KINDS: [&str; 5] = ["vcpu", "memory", "devices", "control", "operations"];

/// Things outside of a VM that it may not reach.
struct Outside<'h> {
    host: &'h Host,
    other_pool: Host,
    listener: TcpListener,
    process: Child,
}

impl<'h> Outside<'h> {
    fn new(host: &'h Host) -> Self {
        std::fs::write(precious(host), "precious").unwrap();
        Self {
            host,
            other_pool: Host::new(64),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            process: Command::new("sleep").arg("1000").spawn().unwrap(),
        }
    }

    /// Probes and their arguments, in the program's words.
    fn probes(&self, sibling: &str) -> Vec<(&'static str, String)> {
        let socket = self.host.runtime().join(format!("{sibling}.sock"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let port = self.listener.local_addr().unwrap().port().to_string();
        let pid = self.process.id().to_string();
        vec![
            ("open", "/etc/passwd".into()),
            ("open", text(self.other_pool.pool())),
            ("open", text(self.host.pool())),
            ("open", format!("/proc/{pid}/environ")),
            ("create", text(&self.host.runtime().join("made"))),
            ("connect-unix", text(&socket)),
            ("connect-tcp", port),
            ("execve", "/bin/true".into()),
            ("fork", String::new()),
            ("ptrace", pid.clone()),
            ("pidfd", pid.clone()),
            ("kill", pid),
            ("mount", text(self.host.runtime())),
            ("unshare", String::new()),
            ("bpf", String::new()),
            ("keyctl", String::new()),
            ("mmap-exec", String::new()),
            ("own-handler", String::new()),
            ("unlink", text(&precious(self.host))),
        ]
    }

    /// Starts a VM in which a thread of this kind makes the probe.
    fn probe(&self, kind: &str, probe: &str, argument: &str, options: &[&str]) -> Outcome {
        let guest = required("NVVMM_BAREMETAL_GUEST");
        let name = self.host.next_name();
        let mut arguments = vec!["run", "--kernel", guest.to_str().unwrap()];
        arguments.extend(["--memory", "32M", "--console", "none", "--name", &name]);
        arguments.extend(options);
        let like = self.host.command(&arguments);
        let mut command = Command::new(required("NVVMM_DEV_BIN"));
        command.args(like.get_args()).stdin(Stdio::null());
        for (name, value) in like.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.env("NVVMM_TEST_INSIDE", format!("{kind}:{probe}:{argument}"));
        Outcome::of(command)
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// True when the kernel answered with an error, or ended the process.
fn is_refused(outcome: &Outcome) -> bool {
    let answered = outcome.code == 99 && outcome.stderr.contains(": refused: ");
    let ended = outcome.code == -1 && outcome.stderr.contains("nvvmm: seccomp: the thread ");
    answered || ended
}

#[test]
fn no_thread_of_a_vm_reaches_anything_outside() {
    let host = Host::new(256);
    let mut sibling = host.boot_bare_metal(32, 1);
    sibling.ask("fill 8 1");
    let outside = Outside::new(&host);
    for kind in KINDS {
        for (probe, argument) in outside.probes(&sibling.name) {
            let outcome = outside.probe(kind, probe, &argument, &[]);
            assert!(
                is_refused(&outcome),
                "{kind} {probe} {argument}: {outcome:?}"
            );
        }
    }
    // The sibling noticed nothing, and what the ended VMs held is free.
    assert!(sibling.ask("check").contains("check ok"));
    assert!(precious(&host).exists());
    sibling.stop();
    host.assert_pool_clean();
}

/// The probes are real ones: without the sandbox they reach what they try to.
#[test]
fn without_the_sandbox_the_same_probes_succeed() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: an ordinary user may not do all of it anyway");
        return;
    }
    let host = Host::new(256);
    let sibling = host.boot_bare_metal(32, 1);
    let outside = Outside::new(&host);
    for (probe, argument) in outside.probes(&sibling.name) {
        let outcome = outside.probe("vcpu", probe, &argument, &["--no-sandbox"]);
        if probe == "mount" {
            nix::mount::umount(host.runtime()).unwrap();
        }
        let done = probe == "execve" && outcome.code == 0;
        assert!(
            done || outcome.stderr.contains(": SUCCEEDED"),
            "{probe} {argument}: {outcome:?}"
        );
    }
}

#[test]
fn ps_tells_how_a_vm_is_confined() {
    let host = Host::new(256);
    let confined = host.boot_bare_metal(32, 1);
    let sandbox = &confined.status()["sandbox"];
    assert_eq!(sandbox["privileges"], true);
    assert_eq!(sandbox["seccomp"], true);
    assert_eq!(confined.status()["notice"], serde_json::Value::Null);
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let open = host.boot(
        &["--kernel", guest.to_str().unwrap(), "--no-sandbox"],
        32,
        1,
    );
    assert_eq!(open.status()["sandbox"]["seccomp"], false);
    assert!(host.run(&["ps"]).ok().stderr.contains("--no-sandbox"));
}

/// The helper answers also when it has no stream to give, and removes the files at the end.
#[test]
fn a_vm_that_is_stopped_logs_nothing_amiss() {
    let host = Host::new(256);
    let vm = host.boot_bare_metal(32, 1);
    let name = vm.name.clone();
    vm.stop();
    let log = std::fs::read_to_string(host.runtime().join(format!("{name}.log")));
    let log = log.unwrap_or_default();
    assert!(!log.contains("WARN"), "{log}");
}

/// A VM in the background and one in the foreground.
#[test]
fn a_vm_has_namespaces_of_its_own_and_an_empty_root() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root sees into a process that keeps its memory from others");
        return;
    }
    let host = Host::new(256);
    let detached = host.boot_bare_metal(32, 1);
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let mut command = host.command(&["run", "--name", "front", "--console", "none"]);
    command.args(["--memory", "32M", "--kernel"]).arg(guest);
    command
        .arg("--json")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    // It prints what it is once it runs.
    let mut stdout = process.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 1]).unwrap();
    let front = Vm::attach(&host, "front".into());
    for vm in [&detached, &front] {
        for namespace in ["user", "mnt", "net", "ipc", "uts"] {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
            assert_ne!(
                of(&vm.pid.to_string()),
                of("self"),
                "{} {namespace}",
                vm.name
            );
        }
        let mut root = std::fs::read_dir(format!("/proc/{}/root", vm.pid)).unwrap();
        assert!(root.next().is_none(), "{}", vm.name);
    }
    front.stop();
    assert!(process.wait().unwrap().success());
    detached.stop();
}

/// Memory of the guest does not leave the process through the host's other doors.
#[test]
fn a_vm_process_has_no_privileges_and_no_core_dumps() {
    let host = Host::new(256);
    let vm = host.boot_bare_metal(32, 1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.pid)).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", vm.pid)).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

/// A VM that was killed leaves nothing in the runtime directory but its log, its record and its
/// console output.
#[test]
fn a_killed_vm_leaves_no_sockets() {
    let host = Host::new(256);
    let vm = host.boot_bare_metal(32, 1);
    let name = vm.name.clone();
    vm.kill();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let left: Vec<_> = std::fs::read_dir(host.runtime())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|file| file.starts_with(&format!("{name}.")))
            .filter(|file| {
                ![".log", ".record", ".output"]
                    .iter()
                    .any(|kept| file.contains(kept))
            })
            .collect();
        if left.is_empty() {
            break;
        }
        assert!(std::time::Instant::now() < until, "{left:?} stay");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
