//! `--uid` and `--gid`: a VM process that root starts runs as another user.

use std::env;
use std::ffi::CString;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::unistd::{
    Gid, Group, Uid, User, chown, geteuid, getgrouplist, getgroups, getresgid, getresuid, setegid,
    seteuid, setgroups, setresgid, setresuid,
};
use nvvmm::{ErrorKind, VmError};

use super::args::StartArguments;

/// A user that a VM process can become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    uid: Uid,
    gid: Gid,
    /// Supplementary groups, as after a login.
    groups: Vec<Gid>,
}

/// The account that the arguments name; `None` without `--uid` and `--gid`.
///
/// # Errors
/// [`ErrorKind::Denied`] unless root asks; [`ErrorKind::NotFound`] for a name that this host does
/// not know; [`ErrorKind::Usage`] for root, or for a number without a group.
pub fn wanted(start: &StartArguments) -> Result<Option<Account>, VmError> {
    let (uid, gid) = (start.uid.as_deref(), start.gid.as_deref());
    if uid.is_none() && gid.is_none() {
        return Ok(None);
    }
    if !geteuid().is_root() {
        return Err(VmError::new(
            ErrorKind::Denied,
            "only root can start a VM process as another user",
        )
        .with_remedy("leave out --uid and --gid: the VM process runs as you"));
    }
    let Some(uid) = uid else {
        return Err(VmError::new(ErrorKind::Usage, "--gid needs --uid")
            .with_remedy("name the user, too: --uid USER"));
    };
    account(uid, gid).map(Some)
}

fn account(uid: &str, gid: Option<&str>) -> Result<Account, VmError> {
    let user = find_user(uid)?;
    let number = match &user {
        Some(user) => user.uid,
        None => Uid::from_raw(number_of("user", uid)?),
    };
    let gid = match (gid, &user) {
        (Some(gid), _) => find_group(gid)?,
        (None, Some(user)) => user.gid,
        (None, None) => {
            return Err(VmError::new(
                ErrorKind::Usage,
                format!("uid {uid} has no entry of a user"),
            )
            .with_remedy("give the group, too: --gid GROUP"));
        }
    };
    if number.is_root() || gid.as_raw() == 0 {
        return Err(VmError::new(
            ErrorKind::Usage,
            "--uid and --gid are for other users than root",
        )
        .with_remedy("leave them out to run the VM process as root"));
    }
    let groups = match &user {
        None => vec![gid],
        Some(user) => groups_of(user, gid)?,
    };
    Ok(Account {
        uid: number,
        gid,
        groups,
    })
}

/// The highest number is none: to setresuid(2) it means "as it is".
fn number_of(what: &str, text: &str) -> Result<u32, VmError> {
    let number = text.parse().ok().filter(|number| *number != u32::MAX);
    number.ok_or_else(|| unknown(what, text))
}

fn unknown(what: &str, name: &str) -> VmError {
    VmError::new(
        ErrorKind::NotFound,
        format!("there is no {what} '{}' on this host", name.escape_debug()),
    )
    .with_remedy(format!(
        "'getent {} {}' finds it",
        database(what),
        name.escape_debug()
    ))
}

fn database(what: &str) -> &'static str {
    match what {
        "user" => "passwd",
        _ => "group",
    }
}

/// A user by name or number; `None` for a number that has no entry.
fn find_user(text: &str) -> Result<Option<User>, VmError> {
    let failed = |e: Errno| VmError::io(format_args!("look for the user {text}"), &e.into());
    match text.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)).map_err(failed),
        Err(_) => match User::from_name(text).map_err(failed)? {
            Some(user) => Ok(Some(user)),
            None => Err(unknown("user", text)),
        },
    }
}

fn find_group(text: &str) -> Result<Gid, VmError> {
    if text.parse::<i64>().is_ok() {
        return number_of("group", text).map(Gid::from_raw);
    }
    match Group::from_name(text) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(unknown("group", text)),
        Err(e) => Err(VmError::io(
            format_args!("look for the group {text}"),
            &e.into(),
        )),
    }
}

/// The groups that a login would give, without that of root.
fn groups_of(user: &User, gid: Gid) -> Result<Vec<Gid>, VmError> {
    let name = CString::new(user.name.as_str())
        .map_err(|_| VmError::failed("the name of a user has a byte 0"))?;
    let mut groups = getgrouplist(&name, gid)
        .map_err(|e| VmError::io(format_args!("find the groups of {}", user.name), &e.into()))?;
    groups.retain(|group| group.as_raw() != 0);
    Ok(groups)
}

/// Does `work` with the rights of the account, or with those of this process if there is none:
/// files that it makes are that user's, and it opens none that the user may not open.
///
/// # Errors
/// The error of the work, or the system refuses.
pub fn as_user<T>(
    account: Option<&Account>,
    work: impl FnOnce() -> Result<T, VmError>,
) -> Result<T, VmError> {
    let _acting = account.map(Account::act).transpose()?;
    work()
}

/// Dropping it gives this process the rights of root back.
struct Acting {
    groups: Vec<Gid>,
}

impl Drop for Acting {
    fn drop(&mut self) {
        let root = (Uid::from_raw(0), Gid::from_raw(0));
        let back = seteuid(root.0)
            .and_then(|()| setegid(root.1))
            .and_then(|()| setgroups(&self.groups));
        if let Err(error) = back {
            // The process has less rights than it thinks: what needs them fails.
            tracing::error!(%error, "cannot become root again");
        }
    }
}

impl Account {
    /// The user's runtime directory, where `nvvmm ps` of that user looks: `$NVVMM_RUNTIME_DIR`,
    /// else that of a login, else `/tmp/nvvmm-<uid>`.
    pub fn runtime_dir(&self) -> PathBuf {
        if let Some(own) = env::var_os("NVVMM_RUNTIME_DIR").filter(|path| !path.is_empty()) {
            return own.into();
        }
        let login = PathBuf::from(format!("/run/user/{}", self.uid));
        match login.is_dir() {
            true => login.join("nvvmm"),
            false => PathBuf::from(format!("/tmp/nvvmm-{}", self.uid)),
        }
    }

    /// Becomes this user for good, in all threads, and checks that there is no way back.
    ///
    /// # Errors
    /// The system refuses, or the process could become root again: it must end then.
    pub fn become_it(&self) -> Result<(), VmError> {
        let failed = |e: Errno| self.failed(e);
        setgroups(&self.groups).map_err(failed)?;
        setresgid(self.gid, self.gid, self.gid).map_err(failed)?;
        setresuid(self.uid, self.uid, self.uid).map_err(failed)?;
        self.check()?;
        // The change of the user cleared it, and with it the way to the process's own /proc files.
        // The sandbox, which uses them, clears it again.
        set_dumpable(true).map_err(failed)
    }

    /// Has the kernel treat this process as this user from now on, until it is dropped.
    fn act(&self) -> Result<Acting, VmError> {
        let acting = Acting {
            groups: getgroups().map_err(|e| self.failed(e))?,
        };
        setgroups(&self.groups)
            .and_then(|()| setegid(self.gid))
            .and_then(|()| seteuid(self.uid))
            .map_err(|e| self.failed(e))?;
        Ok(acting)
    }

    fn failed(&self, error: Errno) -> VmError {
        let Self { uid, gid, .. } = self;
        VmError::io(format_args!("become uid {uid}, gid {gid}"), &error.into())
    }

    /// Makes the runtime directory where only root can.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare_runtime_dir(&self) -> Result<(), VmError> {
        let runtime = self.runtime_dir();
        self.make_runtime_dir(&runtime)
            .map_err(|e| VmError::io(format_args!("make {}", runtime.display()), &e))
    }

    /// In a directory that others can write to, root makes nothing: this user does it later.
    fn make_runtime_dir(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new("/")).metadata()?;
        if parent.uid() != 0 || parent.mode() & 0o022 != 0 {
            return Ok(());
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => Ok(chown(path, Some(self.uid), Some(self.gid))?),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Checks that this user may use a pool.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] with the reason.
    pub fn check_pool(&self, path: &Path) -> Result<(), VmError> {
        let acting = self.act()?;
        let opened = File::options().read(true).write(true).open(path);
        drop(acting);
        match opened {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let owner = match path.metadata() {
                    Ok(found) => format!(" (uid {}, mode {:o})", found.uid(), found.mode() & 0o777),
                    Err(_) => String::new(),
                };
                let path = path.display();
                Err(VmError::new(
                    ErrorKind::Denied,
                    format!("uid {} may not use the pool {path}{owner}", self.uid),
                )
                .with_remedy(format!(
                    "give the pool to that user: chown {} {path}; one pool is for one user",
                    self.uid
                )))
            }
            // Other errors are for who opens the pool in earnest.
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), VmError> {
        let is_whole = getresuid()
            .is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [self.uid; 3])
            && getresgid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [self.gid; 3]);
        let root = (Uid::from_raw(0), Gid::from_raw(0));
        let can_return = seteuid(root.0).is_ok()
            || setegid(root.1).is_ok()
            || setresuid(root.0, root.0, root.0).is_ok()
            || setgroups(&[root.1]).is_ok();
        if is_whole && !can_return {
            return Ok(());
        }
        Err(VmError::failed(format!(
            "the process did not give up root for uid {} for good",
            self.uid
        )))
    }
}

#[cfg(test)]
#[path = "privileges_test.rs"]
mod privileges_test;
