use super::*;

#[test]
fn what_to_do_is_said() {
    for (errno, kind, remedy) in [
        (Errno::ENOENT, ErrorKind::NotFound, "mkdir /mnt/pool"),
        (
            Errno::ENOTCONN,
            ErrorKind::Refused,
            "'umount /mnt/pool' first",
        ),
        (Errno::EPERM, ErrorKind::HostLacks, "fusermount3"),
    ] {
        let error = not_mounted(Path::new("/mnt/pool"), &errno.into());
        assert_eq!(error.kind, kind, "{error}");
        assert!(
            error
                .remedy
                .as_ref()
                .is_some_and(|said| said.contains(remedy)),
            "{error:?}"
        );
        assert!(error.message.contains("mount on /mnt/pool"), "{error}");
    }
    let error = not_mounted(Path::new("/etc/passwd"), &Errno::ENOTDIR.into());
    assert_eq!(error.kind, ErrorKind::Usage);
}
