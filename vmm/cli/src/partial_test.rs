use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn what_exists_is_replaced_only_with_force() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("file"), "precious").unwrap();
    symlink(at("file"), at("link")).unwrap();
    symlink(at("nothing"), at("dangling")).unwrap();
    for taken in ["file", "link", "dangling"] {
        let refused = check_free(&at(taken), false).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Refused, "{taken}");
        assert!(refused.remedy.unwrap().contains("--force"));
        check_free(&at(taken), true).unwrap();
    }
    check_free(&at("new"), false).unwrap();
    check_free(Path::new("/dev/null"), false).unwrap();
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced_either() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("file");
    let partial = Partial::beside(&target).unwrap();
    (&partial.file).write_all(b"new").unwrap();
    fs::write(&target, "precious").unwrap();
    let refused = partial.become_whole(&target, false).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    partial.become_whole(&target, true).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"new");
    drop(partial);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_new_file_gets_its_name_without_a_second_one() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("file");
    Partial::beside(&target)
        .unwrap()
        .become_whole(&target, false)
        .unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
