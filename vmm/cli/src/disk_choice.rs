//! The disks that a VM is started with: image files, or disks of the pool.

use nvvmm::spec::{DiskSource, DiskSpec};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{DiskName, near_names};

use super::args::PoolOption;
use super::given_path::readable;
use super::privileges::{Account, as_user};
use super::{file_size, pool_path};

/// Tells image files and disks of the pool apart.
pub struct DiskChooser<'a> {
    /// The pool of the VM.
    pub pool: &'a PoolOption,
    /// The user whose VM it is.
    pub account: Option<&'a Account>,
}

impl DiskChooser<'_> {
    /// The disks as they were given, with the paths of files made absolute. A name without a slash
    /// is that of a disk of the pool, if there is one; a file of the same name needs `./`.
    ///
    /// # Errors
    /// A file cannot be read, there is neither a file nor a disk of a name, or there are both.
    pub fn choose(&self, disks: Vec<DiskSpec>) -> Result<Vec<DiskSpec>, VmError> {
        let mut known = None;
        disks
            .into_iter()
            .map(|disk| {
                let source = self.source(&disk, &mut known)?;
                Ok(DiskSpec { source, ..disk })
            })
            .collect()
    }

    fn source(
        &self,
        disk: &DiskSpec,
        known: &mut Option<Vec<String>>,
    ) -> Result<DiskSource, VmError> {
        let Some(path) = disk.path() else {
            return Ok(disk.source.clone());
        };
        if let Some(name) = path.to_str().filter(|text| DiskName::new(text).is_ok()) {
            let known = match known {
                Some(known) => known,
                None => known.insert(self.names()?),
            };
            let is_disk = known.iter().any(|disk| disk == name);
            match (is_disk, path.symlink_metadata().is_ok()) {
                (true, false) => return Ok(DiskSource::Pool(name.to_owned())),
                (true, true) => return Err(ambiguous(name)),
                (false, false) => return Err(unknown(name, known)),
                (false, true) => {}
            }
        }
        if !disk.read_only {
            file_size::check_file("disk", path)?;
        }
        Ok(DiskSource::File(readable("disk", path)?))
    }

    /// Names of the disks of the pool. None where there is no pool yet.
    fn names(&self) -> Result<Vec<String>, VmError> {
        as_user(self.account, || {
            let Some(path) = pool_path::found_if_any(self.pool)? else {
                return Ok(Vec::new());
            };
            let disks = pool_path::open(&path)?.disks()?;
            Ok(disks.into_iter().map(|disk| disk.name).collect())
        })
    }
}

fn ambiguous(name: &str) -> VmError {
    VmError::new(
        ErrorKind::Usage,
        format!("'{name}' is a disk of the pool, and a file of the working directory"),
    )
    .with_remedy(format!(
        "give ./{name} for the file; for the disk, run the command in another directory"
    ))
}

fn unknown(name: &str, known: &[String]) -> VmError {
    let near = near_names(name, known.iter().map(String::as_str));
    let remedy = match near.first() {
        Some(near) => format!("did you mean the disk '{near}'? 'nvvmm disk ls' lists all"),
        None => format!(
            "give the path of an image file; or make the disk with 'nvvmm disk create {name} \
             --size SIZE' or 'nvvmm disk import FILE --name {name}'"
        ),
    };
    VmError::new(
        ErrorKind::NotFound,
        format!("there is neither a disk '{name}' in the pool nor a file of that name"),
    )
    .with_remedy(remedy)
}

#[cfg(test)]
#[path = "disk_choice_test.rs"]
mod disk_choice_test;
