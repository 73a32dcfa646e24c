//! A directory with stand-ins for programs, in which scripts run.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Longest time for a script that has only stand-ins to call, in seconds.
const PATIENCE_S: &str = "60";

/// Stand-ins with which the scripts take every package for installed.
const PACKAGES: [(&str, &str); 2] = [
    ("dpkg-query", "printf installed"),
    ("apt-get", "echo 'apt-get was called' >&2; exit 1"),
];

/// Directories that are removed at the end.
pub struct Place {
    base: tempfile::TempDir,
}

impl Place {
    /// Makes the directories `bin`, `home` and `work`, and stand-ins for package programs.
    pub fn new() -> Self {
        let place = Self::with_packages_of_the_host();
        for (name, script) in PACKAGES {
            place.stand_in(name, script);
        }
        place
    }

    /// Makes the directories only.
    pub fn with_packages_of_the_host() -> Self {
        let base = tempfile::tempdir().unwrap();
        for directory in ["bin", "home", "work"] {
            fs::create_dir(base.path().join(directory)).unwrap();
        }
        Self { base }
    }

    /// Path below the place.
    pub fn at(&self, path: &str) -> PathBuf {
        self.base.path().join(path)
    }

    /// Makes a program that scripts find before the real one.
    pub fn stand_in(&self, name: &str, script: &str) {
        let path = self.at("bin").join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes a file, with its directories.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().expect("it has a name")).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A program with the environment of the scripts, ended when it takes too long.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("timeout");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .arg(PATIENCE_S)
            .arg(program)
            .current_dir(self.at("work"))
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .env("HOME", self.at("home"))
            .env("TMPDIR", self.base.path())
            .env("NVVMM_CACHE", self.at("cache"))
            .env("CARGO_TARGET_DIR", self.at("target"))
            .env_remove("NVVMM_NESTED_QEMU")
            .env_remove("NVVMM_NESTED_KERNEL")
            .env_remove("DESTDIR");
        command
    }

    /// A script of the source tree.
    pub fn script(&self, name: &str) -> Command {
        self.command(root().join("scripts").join(name))
    }
}

/// Directory of the source tree.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests is in the tree").to_owned()
}

/// Runs a command to its end, which must be a good one. Returns standard output.
pub fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must end with 1. Returns its messages.
pub fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "{command:?}\n{}",
        text(&output)
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}
