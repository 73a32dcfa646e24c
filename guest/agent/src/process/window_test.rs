use super::*;

fn tree(paths: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for path in paths {
        fs::create_dir_all(directory.path().join(path)).unwrap();
    }
    directory
}

#[test]
fn a_device_is_found_by_its_number_in_the_tables() {
    let devices = tree(&[
        "LNRO0005:07/firmware_node",
        "PNP0501:00/firmware_node",
        "LNRO0005:03",
    ]);
    for (device, uid) in [("LNRO0005:07", "5\n"), ("PNP0501:00", "6\n")] {
        fs::write(devices.path().join(device).join("firmware_node/uid"), uid).unwrap();
    }
    let found = |number| find_device(devices.path(), number).unwrap();
    assert_eq!(found(5).as_deref(), Some("LNRO0005:07"));
    assert_eq!((found(6), found(7)), (None, None));
}

#[test]
fn a_disk_is_found_below_its_device_and_not_behind_links() {
    let device = tree(&[
        "virtio5/ndbus0/region0/namespace0.0/block/pmem3",
        "virtio5/other",
    ]);
    assert_eq!(find_disk(device.path()).unwrap(), Some("pmem3".into()));
    let other = tree(&["virtio6"]);
    std::os::unix::fs::symlink(device.path(), other.path().join("virtio6/subsystem")).unwrap();
    assert_eq!(find_disk(other.path()).unwrap(), None);
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let Err(Failure::Said(because, message)) = Window::open(255) else {
        panic!("it is there");
    };
    assert_eq!(because, nvvmm_protocol::FailedBecause::Refused, "{message}");
}

#[test]
fn a_window_that_nothing_is_mapped_from_is_released_at_once() {
    let window = || Window {
        device: format!("nvvmm-test-{}", std::process::id()),
    };
    let place = window().place();
    let mounted = fs::create_dir_all(&place).and_then(|()| {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]);
        mount.arg(&place).stderr(Stdio::null()).status()
    });
    if !mounted.is_ok_and(|status| status.success()) {
        println!("SKIPPED: only root can mount");
        return;
    }
    // An open file stands for memory that is mapped from it.
    let used = File::create(place.join(FILE)).unwrap();
    let kept = window().release_unless_used().expect("it is used");
    assert!(place.join(FILE).exists());
    drop(used);
    assert!(kept.release_unless_used().is_none());
    assert!(!place.exists(), "it is unmounted and gone");
}
