//! A place of its own for each test, and what the command said there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nvvmm::control::RuntimeDir;
use serde_json::Value;

/// Far longer than anything here takes; a test that reaches it has hung.
pub const HUNG: Duration = Duration::from_secs(60);

/// A private world: runtime directory and pool of their own.
pub struct World {
    root: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("run")).unwrap();
        fs::set_permissions(root.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        Self { root }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nvvmm"));
        command
            .args(arguments)
            .env("NVVMM_RUNTIME_DIR", self.path("run"))
            .env_remove("NVVMM_POOL")
            .env_remove("NVVMM_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end. What it prints with `--json` must be what its schema allows.
    pub fn nvvmm(&self, arguments: &[&str]) -> Finished {
        let finished = Finished::from(self.command(arguments).output().unwrap());
        if arguments.contains(&"--json") && !finished.stdout.is_empty() {
            assert_schema(arguments, &finished.stdout);
        }
        finished
    }

    pub fn registry(&self) -> RuntimeDir {
        RuntimeDir::at(&self.path("run")).unwrap()
    }
}

/// docs/formats/json has the schemas.
fn assert_schema(arguments: &[&str], printed: &str) {
    let name = match arguments {
        ["pool", command, ..] => format!("pool-{command}"),
        ["disk", command, ..] => format!("disk-{command}"),
        [command, ..] => (*command).to_owned(),
        [] => unreachable!("--json is among them"),
    };
    let schemas = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/formats/json");
    let schema = fs::read(format!("{schemas}/{name}.json")).expect(&name);
    let schema: Value = serde_json::from_slice(&schema).unwrap();
    let printed: Value = serde_json::from_str(printed).unwrap();
    if let Err(error) = jsonschema::validate(&schema, &printed) {
        panic!(
            "{arguments:?}, {}: {error}\n{printed:#}",
            error.instance_path()
        );
    }
}

pub struct Finished {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Finished {
    /// Ended with `code`, and said `text` on stderr, without a panic.
    #[track_caller]
    pub fn refused(&self, code: i32, text: &str) {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        assert!(self.stderr.contains(text), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert_eq!(self.stdout, "");
    }

    /// Checks an error with the cause on one line and the remedy on another.
    #[track_caller]
    pub fn refused_with_remedy(&self, code: i32, text: &str, remedy: &str) {
        self.refused(code, text);
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert!(
            lines.len() == 2 && lines[1].starts_with("  try: ") && lines[1].contains(remedy),
            "{}",
            self.stderr
        );
    }

    #[track_caller]
    pub fn done(&self) -> &str {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""));
        &self.stdout
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.done()).unwrap()
    }
}
