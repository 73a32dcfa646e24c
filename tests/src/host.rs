//! An nvvmm installation for one test: a runtime directory and a pool that no other test uses.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Engine, Medium, Vm, required, schema, wait_gone};

/// Longest wait for a command: ten times what the slowest one takes with an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(900);

/// Longest wait for the kernel to give back the memory of a pool that was removed.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(5);

/// An installation in which a test runs its VMs. When it is dropped, it ends the VMs that still run
/// and removes the pool.
#[derive(Debug)]
pub struct Host {
    runtime: tempfile::TempDir,
    medium: Medium,
    pool: PathBuf,
    next_vm: AtomicU32,
    dirty_log: bool,
    faults: Vec<(&'static str, String)>,
    variables: Vec<(&'static str, String)>,
    /// The network namespace of its commands, if it has one of its own.
    network: Option<String>,
    lasting: bool,
    /// Huge pages that were free before the pool was made.
    huge_pages: u64,
}

/// Output and exit code of a command.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to its end. The test fails if the command does not end in time.
    pub fn of(mut command: Command) -> Self {
        let what = format!("{command:?}");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("the command starts");
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let (ended, end) = mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            let late = end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
            if late {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            late
        });
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().expect("the command is waited for");
        drop(ended);
        let late = watch.join().expect("the watch does not panic");
        assert!(
            !late,
            "did not end in {PATIENCE:?}: {what}\nstderr: {}",
            String::from_utf8_lossy(&stderr)
        );
        Self {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Fails the test unless the command succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Fails the test unless the command ended with `code`, without a panic, and `what` is in its
    /// error text.
    pub fn refused(self, code: i32, what: &str) -> Self {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        assert!(
            self.stderr.contains(what),
            "{what:?} is not said in: {}",
            self.stderr
        );
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }

    /// The JSON document on standard output.
    pub fn json(self) -> Value {
        let outcome = self.ok();
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", outcome.stdout))
    }
}

impl Host {
    /// An installation with a new pool of `pool_mib`.
    pub fn new(pool_mib: u64) -> Self {
        Self::on(&Medium::chosen(), pool_mib)
    }

    /// An installation with a new pool of `pool_mib` on one of [`Medium::all`].
    pub fn on(medium: &Medium, pool_mib: u64) -> Self {
        let host = Self::without_pool_on(medium.clone());
        let size = format!("{pool_mib}M");
        host.run(&["pool", "create", host.pool_str(), "--size", &size])
            .ok();
        host
    }

    /// An installation whose pool has this name and stays when the installation is dropped. The
    /// pool is made now, or it is there from an earlier boot of this machine.
    pub fn lasting(name: &str) -> Self {
        Self::lasting_on(&Medium::chosen(), name)
    }

    /// The same with a pool on a medium of [`Medium::all`].
    pub fn lasting_on(medium: &Medium, name: &str) -> Self {
        let mut host = Self::without_pool_on(medium.clone());
        host.pool = host.medium.lasting_path(name);
        host.lasting = true;
        host
    }

    /// An installation with the path of a pool, but without the pool.
    pub fn without_pool() -> Self {
        Self::without_pool_on(Medium::chosen())
    }

    fn without_pool_on(medium: Medium) -> Self {
        Self {
            runtime: private_directory(),
            pool: medium.pool_path(),
            medium,
            next_vm: AtomicU32::new(0),
            dirty_log: false,
            faults: Vec::new(),
            variables: Vec::new(),
            network: None,
            lasting: false,
            huge_pages: huge_pages_free(),
        }
    }

    /// The same installation, in which every command is a program with fault points and has this
    /// variable.
    pub fn with_fault(mut self, variable: &'static str, value: String) -> Self {
        self.faults.push((variable, value));
        self
    }

    /// The same installation, in which every command has these variables.
    pub fn with_variables(
        mut self,
        variables: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Self {
        self.variables.extend(variables);
        self
    }

    /// The same installation, in a network namespace: another host, as the network has it.
    pub fn in_network(mut self, namespace: &str) -> Self {
        self.network = Some(namespace.to_owned());
        self
    }

    /// True if the log of a VM process has this line.
    pub fn is_logged(&self, line: &str) -> bool {
        let logs = std::fs::read_dir(self.runtime()).expect("the runtime directory is there");
        let mut logs = logs.flatten().map(|entry| entry.path());
        logs.any(|path| std::fs::read_to_string(path).is_ok_and(|log| log.contains(line)))
    }

    /// The same installation, in which every VM has KVM's dirty log switched on, for `nvvmm audit`.
    pub fn with_dirty_log(mut self) -> Self {
        self.dirty_log = true;
        self
    }

    /// The pool's path.
    pub fn pool(&self) -> &Path {
        &self.pool
    }

    /// Copy-on-write engine of the VMs on this pool.
    pub fn engine(&self) -> Engine {
        match self.pool_status()["cow_engine"].as_str() {
            Some("userfaultfd") => Engine::Redirect,
            Some("private") => Engine::Private,
            other => panic!("an engine that these tests do not know: {other:?}"),
        }
    }

    /// Medium of the pool.
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    /// The pool's path as text.
    pub fn pool_str(&self) -> &str {
        self.pool.to_str().expect("the path was made of ASCII")
    }

    /// The directory of control and console sockets.
    pub fn runtime(&self) -> &Path {
        self.runtime.path()
    }

    /// An nvvmm command in this installation, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let program = if !self.faults.is_empty() || self.dirty_log {
            "NVVMM_DEV_BIN"
        } else {
            "NVVMM_BIN"
        };
        let program = required(program);
        let mut command = match &self.network {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        for (variable, value) in self.faults.iter().chain(&self.variables) {
            command.env(variable, value);
        }
        command
            .args(arguments)
            .env("NVVMM_RUNTIME_DIR", self.runtime.path())
            .env("NVVMM_POOL", &self.pool)
            .stdin(Stdio::null());
        if self.dirty_log {
            command.env("NVVMM_TEST_DIRTY_LOG", "1");
        }
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments))
    }

    /// Runs a command and returns its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let document = self.run(&arguments).json();
        schema::assert_valid(&arguments, &document);
        document
    }

    /// Boots the bare-metal guest.
    pub fn boot_bare_metal(&self, memory_mib: u64, vcpus: u32) -> Vm<'_> {
        let kernel = required("NVVMM_BAREMETAL_GUEST");
        let kernel = kernel
            .to_str()
            .expect("the guest's path is text")
            .to_owned();
        self.boot(&["--kernel", &kernel], memory_mib, vcpus)
    }

    /// Boots a guest in the background.
    pub fn boot(&self, what: &[&str], memory_mib: u64, vcpus: u32) -> Vm<'_> {
        let name = self.next_name();
        let (memory, vcpus) = (format!("{memory_mib}M"), vcpus.to_string());
        let mut arguments = vec![
            "run", "--name", &name, "--memory", &memory, "--cpus", &vcpus, "--detach",
        ];
        arguments.extend_from_slice(what);
        self.run(&arguments).ok();
        Vm::attach(self, name)
    }

    /// Restores a snapshot in the background.
    pub fn restore(&self, snapshot: &str, options: &[&str]) -> Vm<'_> {
        let name = self.next_name();
        let mut arguments = vec!["restore", snapshot, "--name", &name, "--detach"];
        arguments.extend_from_slice(options);
        self.run(&arguments).ok();
        Vm::attach(self, name)
    }

    /// A VM name that this installation has not used.
    pub fn next_name(&self) -> String {
        format!("vm{}", self.next_vm.fetch_add(1, Ordering::Relaxed))
    }

    /// Status of the pool.
    pub fn pool_status(&self) -> Value {
        self.json(&["pool", "status"])
    }

    /// Bytes of the medium behind the pool. The medium's file system counts them; on a medium that
    /// takes no space back, the pool counts them.
    pub fn medium_bytes(&self) -> u64 {
        self.medium.taken_bytes(&self.pool).unwrap_or_else(|| {
            let status = self.pool_status();
            let bytes =
                ["snapshot_bytes", "leased_bytes"].map(|key| status[key].as_u64().expect(key));
            bytes.iter().sum::<u64>()
        })
    }

    /// Fails the test unless every invariant of the pool holds.
    pub fn assert_pool_clean(&self) {
        self.run(&["pool", "check"]).ok();
    }
}

fn private_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new()
        .permissions(private)
        .tempdir()
        .expect("a temporary directory")
}

impl Host {
    /// Prints the logs of all VM processes, for the message of a failed test.
    fn print_logs(&self) {
        println!("-- nvvmm ps:\n{}", self.run(&["ps", "--json"]).stdout);
        for entry in std::fs::read_dir(self.runtime.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                println!(
                    "-- {}:\n{}",
                    path.display(),
                    std::fs::read_to_string(&path).unwrap_or_default()
                );
            }
        }
    }
}

impl Host {
    /// Processes of the VMs that run.
    fn pids(&self) -> Vec<i32> {
        let listed = serde_json::from_str(&self.run(&["ps", "--json"]).stdout);
        let listed: Vec<Value> = listed.unwrap_or_default();
        let pids = listed.iter().filter_map(|vm| vm["pid"].as_i64());
        pids.map(|pid| pid as i32).collect()
    }
}

impl Host {
    /// Waits for the pages of a pool that was removed. A process that confined itself to the pool
    /// by Landlock has its inode for a moment after its end, until the kernel frees its
    /// credentials.
    fn wait_for_huge_pages(&self) {
        let until = Instant::now() + GIVEN_BACK_WITHIN;
        while self.medium.name() == "hugetlbfs"
            && huge_pages_free() < self.huge_pages
            && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        let pids = self.pids();
        for entry in std::fs::read_dir(self.runtime.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "sock")
                && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            {
                let _ = self.run(&["stop", name, "--force"]);
            }
        }
        // A process that ends has its memory for a moment longer; the next test may need it.
        if !std::thread::panicking() {
            pids.into_iter().for_each(wait_gone);
        }
        if self.lasting {
            return;
        }
        if self.medium.is_device() {
            self.run(&["pool", "delete", self.pool_str()]);
        } else {
            let _ = std::fs::remove_file(&self.pool);
        }
        self.wait_for_huge_pages();
    }
}

/// Huge pages that a new pool can have.
fn huge_pages_free() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let number = |field: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|rest| rest.trim().parse::<u64>().ok())
    };
    let free = number("HugePages_Free:").unwrap_or_default();
    free.saturating_sub(number("HugePages_Rsvd:").unwrap_or_default())
}
