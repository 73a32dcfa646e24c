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
