use std::{fs, fs::FileTimes, path::PathBuf, time::Duration};

use nvvmm_snapshot::{Identity, SnapshotId, SnapshotKind};

use super::*;
use crate::spec::{DiskSource, DiskSpec, saved_test::BLOB};

/// A disk image, and a snapshot of a machine that has it.
struct Files {
    at: tempfile::TempDir,
    saved: SavedVm,
}

impl Files {
    fn new(read_only: bool) -> Self {
        let at = tempfile::tempdir().unwrap();
        let mut files = Self {
            saved: SavedVm::decode(BLOB).unwrap(),
            at,
        };
        fs::write(files.path("disk"), [1; 1024]).unwrap();
        files.saved.disks = Some(vec![files.open("disk", read_only)[0].note_content()]);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }

    fn open(&self, name: &str, read_only: bool) -> Vec<OpenDisk> {
        vec![OpenDisk::File(
            RawDisk::open(&self.path(name), read_only).unwrap(),
        )]
    }

    /// Another program writes, at a time that the clock tells from the one before.
    fn write(&self, name: &str) {
        fs::write(self.path(name), [2; 1024]).unwrap();
        let file = fs::File::options()
            .write(true)
            .open(self.path(name))
            .unwrap();
        let later = std::time::SystemTime::now() + Duration::from_secs(1);
        file.set_times(FileTimes::new().set_modified(later))
            .unwrap();
    }

    fn check(&self, name: &str, restore: &RestoreOptions, foreign: bool) -> CheckResult {
        let disks = self.open(name, false);
        check(&self.saved, &entry(foreign), restore, &disks)
    }
}

type CheckResult = Result<Vec<String>, VmError>;

fn entry(foreign: bool) -> SnapshotEntry {
    SnapshotEntry {
        id: SnapshotId::new(1).unwrap(),
        kind: SnapshotKind::Vm,
        name: "full".into(),
        parent: None,
        created_unix_ns: 0,
        memory_bytes: 0,
        maps: Vec::new(),
        frames_mapped: 0,
        frames_new: 0,
        state_bytes: 0,
        identity: Identity::from_bytes([1; 16]).unwrap(),
        incomplete: false,
        foreign,
        content_root: None,
        own_bytes: None,
        shared_bytes: None,
    }
}

fn given(files: &Files, name: &str) -> RestoreOptions {
    RestoreOptions {
        disks: Some(vec![DiskSpec {
            source: DiskSource::File(files.path(name)),
            read_only: false,
            ..DiskSpec::default()
        }]),
        ..RestoreOptions::from("full")
    }
}

fn refused(found: CheckResult, words: &str) {
    let error = found.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains(words), "{error}");
    let remedy = error.remedy.unwrap_or_default();
    for way in ["--disk FILE", "--stale-disks"] {
        assert!(remedy.contains(way), "{remedy}");
    }
}

#[test]
fn a_disk_that_was_written_since_is_refused_until_it_is_taken_as_it_is() {
    let files = Files::new(false);
    let plain = RestoreOptions::from("full");
    assert_eq!(files.check("disk", &plain, false).unwrap(), [""; 0]);
    files.write("disk");
    refused(files.check("disk", &plain, false), "disk was written after");
    // Its name makes it no copy.
    let named = given(&files, "disk");
    refused(files.check("disk", &named, false), "disk was written after");
    let as_it_is = RestoreOptions {
        stale_disks: true,
        ..plain
    };
    assert_eq!(files.check("disk", &as_it_is, false).unwrap(), [""; 0]);
}

#[test]
fn a_copy_that_is_named_is_taken_and_another_file_in_its_place_is_not() {
    let files = Files::new(false);
    files.write("copy");
    let named = given(&files, "copy");
    assert_eq!(files.check("copy", &named, false).unwrap(), [""; 0]);
    assert_eq!(files.check("copy", &named, true).unwrap(), [""; 0]);
    fs::rename(files.path("copy"), files.path("disk")).unwrap();
    let plain = RestoreOptions::from("full");
    refused(files.check("disk", &plain, false), "is another file");
}

#[test]
fn a_disk_of_another_host_is_no_file_of_this_one() {
    let files = Files::new(false);
    files.write("disk");
    let named = given(&files, "disk");
    assert_eq!(files.check("disk", &named, true).unwrap(), [""; 0]);
}

#[test]
fn a_read_only_disk_that_changed_is_refused_too() {
    let files = Files::new(true);
    files.write("disk");
    let found = judge(&files.saved, Given::BySnapshot, &files.open("disk", true));
    assert_eq!(found.refused.len(), 1, "{found:?}");
}

#[test]
fn a_snapshot_of_an_older_version_is_restored_with_a_note() {
    let mut files = Files::new(false);
    files.saved.disks = None;
    files.write("disk");
    let notes = files.check("disk", &RestoreOptions::from("full"), false);
    let notes = notes.unwrap();
    assert!(notes[0].contains("an older nvvmm took it"), "{notes:?}");
    assert_eq!(notes.len(), 1);
    let notes = files.check("disk", &given(&files, "disk"), false).unwrap();
    assert_eq!(notes, [""; 0], "the user has named it");
}

#[test]
fn nothing_can_be_told_of_a_block_device() {
    let mut files = Files::new(false);
    files.saved.disks = Some(vec![None]);
    let notes = files.check("disk", &RestoreOptions::from("full"), false);
    let notes = notes.unwrap();
    assert!(notes[0].contains("block device"), "{notes:?}");
}
