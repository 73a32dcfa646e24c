//! Files of VMs that have ended: their records, logs and last console output.
//!
//! Records are kept until the name is used again, until somebody removes it, or until there are
//! [`PAST_VMS_MAX`] newer ones. A VM that is started with the name of one that has ended sets its
//! files aside. They go when its guest has run, and come back when it could not be started.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nvvmm_devices::KeptOutput;

use super::life::{Life, LifeFile, LifeStart, Phase};
use super::registry::{Claim, RuntimeDir, VmRuntimePaths, check_vm_name};
use super::runtime_paths::{SUFFIX_LOCK, remove_if_there};
use crate::error::{ErrorKind, VmError};

/// VMs that have ended and of which something is kept.
pub const PAST_VMS_MAX: usize = 64;
const SUFFIX_ASIDE: &str = "before";

/// Files in which the life of this process's VM is kept.
#[derive(Debug)]
pub struct KeptLife {
    /// Its record.
    pub record: LifeFile,
    /// The latest output of its console.
    pub output: KeptOutput,
}

impl Claim {
    /// Begins to keep the life of the VM that has this name. What is kept of the one before is set
    /// aside.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn begin_life(&self, start: &LifeStart) -> Result<KeptLife, VmError> {
        let paths = self.paths();
        let failed =
            |e: io::Error| VmError::io(format_args!("keep a record of VM '{}'", paths.name), &e);
        let _changing = self.directory().change()?;
        paths.set_aside().map_err(failed)?;
        self.directory().forget_the_oldest(&paths.name);
        let record = LifeFile::create(&paths.life, start).map_err(failed)?;
        let output = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&paths.output)
            .and_then(KeptOutput::begin)
            .map_err(failed)?;
        Ok(KeptLife { record, output })
    }
}

/// The end of a VM process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// The process removes its files.
    InOrder,
    /// Somebody found them.
    WithoutWord,
}

impl VmRuntimePaths {
    /// Files that stay when the VM has ended.
    fn kept(&self) -> [&PathBuf; 4] {
        [&self.life, &self.log, &self.log_before, &self.output]
    }

    pub(super) fn set_aside(&self) -> io::Result<()> {
        // Those of an attempt before this one, which came to nothing.
        self.settle(Departure::WithoutWord);
        for path in self.kept() {
            rename_if_there(path, &aside(path))?;
        }
        Ok(())
    }

    /// Decides what stays of a VM whose process has ended. One whose guest never ran leaves nothing
    /// but what it said.
    pub(super) fn settle(&self, departure: Departure) {
        let life = Life::read(&self.life).ok().flatten();
        let never_ran = match &life {
            // It may have been killed between the two steps of setting aside.
            None => aside(&self.life).exists(),
            Some(life) => life.state.phase == Phase::Starting,
        };
        let said_nothing = self.log.metadata().map_or(true, |log| log.len() == 0);
        let goes = never_ran && (departure == Departure::InOrder || said_nothing);
        for path in self.kept() {
            let is_log = *path == self.log || *path == self.log_before;
            let done = match goes && (said_nothing || !is_log) {
                true => remove_if_there(path).and_then(|()| rename_if_there(&aside(path), path)),
                false => remove_if_there(&aside(path)),
            };
            if let Err(error) = done {
                tracing::warn!(%error, "a file of a VM that has ended, {}", path.display());
            }
        }
    }

    /// Removes what was set aside when the VM was started, once its guest has run.
    pub(super) fn forget_aside(&self) {
        let is_aside = aside(&self.life).exists();
        let life = is_aside
            .then(|| Life::read(&self.life).ok().flatten())
            .flatten();
        if life.is_some_and(|life| life.state.phase != Phase::Starting) {
            for path in self.kept() {
                // The next one who looks tries it again.
                let _ = remove_if_there(&aside(path));
            }
        }
    }

    pub(super) fn forget(&self) -> io::Result<bool> {
        let mut was_there = false;
        for path in self.kept() {
            was_there |= path.exists();
            remove_if_there(path)?;
            remove_if_there(&aside(path))?;
        }
        Ok(was_there)
    }
}

fn aside(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".");
    aside.push(SUFFIX_ASIDE);
    aside.into()
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

impl RuntimeDir {
    /// Records of the VMs that have ended, by name.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn past(&self) -> Result<Vec<Life>, VmError> {
        let living = self.entries()?;
        let is_living = |name: &str| living.iter().any(|entry| entry.paths.name == name);
        let mut names = self.names_with("record")?;
        names.retain(|name| !is_living(name));
        let lives = names.iter().filter_map(|name| self.life(name));
        Ok(lives.collect())
    }

    /// The record of this VM, whether it lives or not. `None` when there is none that can be read.
    pub fn life(&self, name: &str) -> Option<Life> {
        Life::read(&self.paths(name).life).ok().flatten()
    }

    /// The record of the VM of that name, which has ended.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when it runs; [`ErrorKind::NotFound`] when there is no record.
    pub fn past_of(&self, name: &str) -> Result<Life, VmError> {
        check_vm_name(name)?;
        if self.is_living(name)? {
            return Err(self.runs(name));
        }
        self.life(name).ok_or_else(|| self.not_kept(name))
    }

    /// Removes all that is kept of a VM that has ended.
    ///
    /// # Errors
    /// As [`RuntimeDir::past_of`], or a file cannot be removed.
    pub fn forget(&self, name: &str) -> Result<(), VmError> {
        check_vm_name(name)?;
        let _changing = self.change()?;
        if self.living(name).is_some() {
            return Err(self
                .runs(name)
                .with_remedy(format!("end it first with 'nvvmm stop {name}'")));
        }
        let removed = self.paths(name).forget();
        let removed = removed
            .map_err(|e| VmError::io(format_args!("remove the record of VM '{name}'"), &e))?;
        match removed {
            true => Ok(()),
            false => Err(self.not_kept(name)),
        }
    }

    /// Notes that the VM whose process had this number was killed, if it has not said how it ended.
    /// For the helper, which is there when that happens.
    pub fn note_killed(&self, paths: &VmRuntimePaths, pid: u32) {
        let Ok(_changing) = self.change() else {
            return;
        };
        if self.living(&paths.name).is_some() {
            return;
        }
        let life = Life::read(&paths.life).ok().flatten();
        if let Some(life) = life.filter(|life| life.start.pid == pid) {
            // Without it the record says the same, but not when.
            let _ = life.note_killed(&paths.life);
        }
    }

    fn runs(&self, name: &str) -> VmError {
        VmError::new(ErrorKind::Refused, format!("VM '{name}' runs"))
            .with_remedy("'nvvmm ps' shows it")
    }

    fn not_kept(&self, name: &str) -> VmError {
        VmError::new(
            ErrorKind::NotFound,
            format!("there is no VM '{name}', and no record of one that has ended"),
        )
        .with_remedy("'nvvmm ps --all' lists all that there are")
    }

    fn names_with(&self, suffix: &str) -> Result<Vec<String>, VmError> {
        let listing = fs::read_dir(self.path())
            .map_err(|e| VmError::io(format_args!("list {}", self.path().display()), &e))?;
        let suffix = format!(".{suffix}");
        let mut names: Vec<String> = listing
            .filter_map(|item| item.ok()?.file_name().into_string().ok())
            .filter_map(|file| Some(file.strip_suffix(&suffix)?.to_owned()))
            .filter(|name| check_vm_name(name).is_ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Makes room for one more VM that has ended. The caller holds the registry's lock.
    pub(super) fn forget_the_oldest(&self, but: &str) {
        let names = |suffix| self.names_with(suffix).unwrap_or_default();
        let mut past = [names("record"), names("log")].concat();
        past.sort();
        past.dedup();
        past.retain(|name| {
            name != but && !self.path().join(format!("{name}.{SUFFIX_LOCK}")).exists()
        });
        let age_of = |name: &String| {
            let paths = self.paths(name);
            let changed = [&paths.life, &paths.log].map(|path| path.metadata()?.modified());
            changed.into_iter().flatten().max()
        };
        past.sort_by_cached_key(age_of);
        let too_many = (past.len() + 1).saturating_sub(PAST_VMS_MAX);
        for name in &past[..too_many] {
            if let Err(error) = self.paths(name).forget() {
                tracing::warn!(%error, "the record of VM '{name}' stays");
            }
        }
    }
}

/// Opens a file that is kept of a VM; `None` when there is none.
///
/// # Errors
/// The file cannot be opened.
pub fn open_kept(path: &Path) -> Result<Option<File>, VmError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(VmError::io(format_args!("read {}", path.display()), &e)),
    }
}

#[cfg(test)]
#[path = "past_test.rs"]
mod past_test;
