use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use nvvmm_snapshot::CreateOptions;

use super::*;
use crate::{BootChoice, ErrorKind, RestoreOptions, Vm};

fn no_text(name: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(name))
}

fn disk(path: PathBuf) -> DiskSpec {
    DiskSpec {
        source: crate::spec::DiskSource::File(path),
        read_only: true,
        ..DiskSpec::default()
    }
}

fn pool(path: &Path) -> Arc<Pool> {
    let options = CreateOptions {
        size_bytes: 8 << 20,
        overcommit: true,
    };
    Pool::create(path, &options).unwrap()
}

#[test]
fn no_vm_is_built_whose_snapshots_could_not_name_its_files() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = pool(&directory.path().join("pool"));
    let bad = || no_text(b"/a\xff");
    let sources = [
        VmSource::Boot(VmSpec::builder(bad()).build()),
        VmSource::Boot(VmSpec::builder("/k").initramfs(Some(bad())).build()),
        VmSource::Boot(VmSpec::builder("/k").disks([disk(bad())]).build()),
        VmSource::Restore(RestoreOptions {
            disks: Some(vec![disk(bad())]),
            ..RestoreOptions::from("s")
        }),
        VmSource::Restore(RestoreOptions {
            boot: Some(BootChoice {
                kernel: bad(),
                ..BootChoice::default()
            }),
            ..RestoreOptions::from("s")
        }),
    ];
    for source in sources {
        let vm = Vm::begin(&pool, source.clone(), VmOptions::named("v")).unwrap();
        let error = vm.wait_ready().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage, "{source:?}: {error}");
        assert!(error.message.contains(r"/a\xFF"), "{source:?}: {error}");
    }
}

#[test]
fn no_vm_is_built_in_a_pool_whose_path_is_no_text() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = pool(&directory.path().join(no_text(b"p\xff")));
    let source = VmSource::Boot(VmSpec::builder("/k").build());
    let error = check_paths(&pool, &source, &VmOptions::named("v")).unwrap_err();
    assert!(error.message.contains("the path of the pool"), "{error}");
    let options = VmOptions {
        vsock: Some(no_text(b"/v\xff")),
        ..VmOptions::named("v")
    };
    let error = check_paths(&pool, &source, &options).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
}

#[test]
fn a_kernel_that_is_none_is_refused_before_a_vm_is_built() {
    let files = tempfile::tempdir().unwrap();
    let kernel = files.path().join("kernel");
    std::fs::write(&kernel, "").unwrap();
    let error = check_kernel(&kernel).unwrap_err();
    assert!(error.message.contains("empty"), "{error}");
    let mut image = vec![0; 0x400];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    std::fs::write(&kernel, image).unwrap();
    assert_eq!(check_kernel(&kernel), Ok(KernelKind::Linux));
}

#[test]
fn a_disk_that_can_only_be_read_is_refused_with_the_way_out() {
    // Root may write every ordinary file, but not an attribute of the kernel that is read only.
    let files = tempfile::tempdir().unwrap();
    let image = files.path().join("image");
    std::fs::write(&image, [0; 4096]).unwrap();
    let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o444);
    std::fs::set_permissions(&image, read_only).unwrap();
    let path = match nix::unistd::geteuid().is_root() {
        true => PathBuf::from("/sys/kernel/uevent_seqnum"),
        false => image,
    };
    let mut disk = disk(path);
    assert_eq!(check_disk(&disk), Ok(()));
    disk.read_only = false;
    let error = check_disk(&disk).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("cannot be written"), "{error}");
    assert!(error.remedy.unwrap().contains("',ro'"));
}

#[test]
fn a_qcow2_image_is_refused_unless_the_user_says_that_it_is_a_raw_disk() {
    let files = tempfile::tempdir().unwrap();
    let image = files.path().join("image");
    let mut bytes = vec![0; 4096];
    std::fs::write(&image, &bytes).unwrap();
    let mut disk = disk(image.clone());
    check_disk(&disk).unwrap();
    bytes[..4].copy_from_slice(b"QFI\xfb");
    std::fs::write(&image, &bytes).unwrap();
    let error = check_disk(&disk).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
    let remedy = error.remedy.unwrap();
    assert!(
        remedy.contains("qemu-img") && remedy.contains(",raw"),
        "{remedy}"
    );
    disk.is_surely_raw = true;
    check_disk(&disk).unwrap();
}
