use std::os::unix::fs::PermissionsExt;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn programs_find_what_an_init_mounts_and_what_was_mounted_stays() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_owned();
    // The thread has mounts of its own, which end with it.
    let tried = std::thread::spawn(move || {
        if let Err(error) = sys::have_own_mounts() {
            assert!(std::env::var_os("NVVMM_REQUIRE_ROOT").is_none(), "{error}");
            eprintln!("SKIPPED: mounts need root: {error}");
            return;
        }
        let dev = root.join("dev");
        fs::create_dir(&dev).unwrap();
        sys::mount(c"tmpfs", &c_path(&dev).unwrap(), 0, c"mode=755").unwrap();
        fs::write(dev.join("mark"), "").unwrap();
        for _ in 0..2 {
            assert_eq!(prepare(&root), Vec::<String>::new());
            assert!(dev.join("mark").exists(), "/dev was covered");
            for file in ["proc/version", "sys/kernel", "dev/pts/ptmx"] {
                assert!(root.join(file).exists(), "{file}");
            }
            for (place, expected) in [("dev/shm", 0o1777), ("tmp", 0o1777), ("run", 0o755)] {
                assert!(is_mount_point(&root.join(place)).unwrap(), "{place}");
                assert_eq!(mode(&root.join(place)), expected, "{place}");
            }
            let links = fs::read_link(dev.join("fd")).unwrap();
            assert_eq!(links, Path::new("/proc/self/fd"));
            // The second time must not cover it.
            fs::write(root.join("tmp/kept"), "").unwrap();
        }
        assert!(root.join("tmp/kept").exists());
    });
    tried.join().unwrap();
}
