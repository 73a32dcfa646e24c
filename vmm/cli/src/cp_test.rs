use super::*;

#[test]
fn a_file_that_is_copied_to_a_directory_keeps_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path();
    assert_eq!(target(Path::new("/var/log/x"), to).unwrap(), to.join("x"));
    assert_eq!(
        target(Path::new("/x"), &to.join("y")).unwrap(),
        to.join("y")
    );
    for nameless in ["/", "/a/.."] {
        assert_eq!(
            target(Path::new(nameless), to).unwrap_err().kind,
            ErrorKind::Usage
        );
    }
    let device = Path::new("/dev/null");
    assert_eq!(
        target(Path::new("/x"), device).unwrap_err().kind,
        ErrorKind::Refused
    );
}

#[test]
fn a_copied_file_has_no_permission_that_the_umask_takes() {
    let status = "Name:\tnvvmm\nUmask:\t0027\nState:\tR (running)\n";
    assert_eq!(umask_in(status), Some(0o027));
    assert_eq!(umask_in("Name:\tnvvmm\n"), None);
    assert_eq!(umask_in("Umask:\tx\n"), None);

    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("made");
    File::create(&made).unwrap();
    let made = std::fs::metadata(&made).unwrap().permissions().mode() & MODE_BITS;
    assert_eq!(0o666 & !umask(), made, "the umask is that of the process");

    let target = directory.path().join("copied");
    let partial = Partial::beside(&target).unwrap();
    finish(&partial, 0o777 & !0o027, &target).unwrap();
    let mode = std::fs::metadata(&target).unwrap().permissions().mode();
    assert_eq!(mode & MODE_BITS, 0o750);
}

#[test]
fn one_place_is_in_a_guest() {
    let host = CopyPlace::Host("/x".into());
    let guest = CopyPlace::Guest {
        vm: "vm".into(),
        path: "/x".into(),
    };
    for (from, to) in [(&host, &host), (&guest, &guest)] {
        assert_eq!(run(from, to).unwrap_err().kind, ErrorKind::Usage);
    }
}
