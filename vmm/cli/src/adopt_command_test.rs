use nvvmm::{DiskSource, DiskSpec};

use super::*;

fn disk(path: &str, read_only: bool) -> DiskSpec {
    DiskSpec {
        source: DiskSource::File(path.into()),
        read_only,
        ..DiskSpec::default()
    }
}

#[test]
fn all_that_a_restore_would_obey_is_told_a_line_each() {
    let mut spec = VmSpec::builder("/k\n  disk /mine")
        .initramfs(Some("/i\x1b[2J".into()))
        .cmdline("init=/bin/sh")
        .disks([disk("/etc/shadow", false), disk("/b", true)])
        .build();
    assert_eq!(
        trusted_text("s", &paths(&spec)),
        "s came from elsewhere. When it is restored, this is obeyed:\n\
         \x20 kernel /k\\n  disk /mine\n\
         \x20 initramfs /i\\x1b[2J\n\
         \x20 command line init=/bin/sh\n\
         \x20 writable disk /etc/shadow\n\
         \x20 disk /b\n"
    );
    spec = VmSpec::builder("").build();
    spec.kernel = None;
    assert_eq!(
        trusted_text("s", &paths(&spec)),
        "s names nothing of this host\n"
    );
}
