//! Mounts of windows on the host's kernel, for tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::erofs::FILE_NAME;

/// True if this process cannot mount a window. Prints the reason.
pub fn cannot_mount() -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    let missing = if !known.lines().any(|line| line.trim() == "erofs") {
        "this kernel has no erofs (modprobe erofs)"
    } else if !nix::unistd::geteuid().is_root() {
        "mounting needs root"
    } else {
        return false;
    };
    eprintln!("SKIPPED: {missing}");
    true
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

/// The only file, as the kernel reads it.
pub fn read(window: &Path) -> Vec<u8> {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let mounted = Command::new("mount")
        .args(["-t", "erofs", "-o", "ro,loop"])
        .args([window, place])
        .output()
        .unwrap();
    assert!(mounted.status.success(), "{mounted:?}");
    let _mounted = Mounted(place);
    let names: Vec<_> = fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, [FILE_NAME]);
    fs::read(place.join(FILE_NAME)).unwrap()
}
