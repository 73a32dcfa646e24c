use super::*;

#[test]
fn watches_are_read_with_their_handles() {
    let info = "pos:\t0\nflags:\t02000000\nmnt_id:\t15\nino:\t4\n\
                inotify wd:3 ino:5b2 sdev:800011 mask:3ce ignored_mask:0 fhandle-bytes:8 \
                fhandle-type:1 f_handle:b205000000000001\n";
    let expected = Shown {
        number: 3,
        mask: 0x3ce,
        inode: 0x5b2,
        device: (8, 17),
        handle_kind: 1,
        handle: vec![0xb2, 5, 0, 0, 0, 0, 0, 1],
    };
    assert_eq!(parse(info).expect("a watch"), [expected]);
    let without = parse("inotify wd:3 ino:5b2 sdev:1 mask:2").expect("a watch");
    assert_eq!((&without[0].handle[..], find(&without[0])), (&[][..], None));
    parse("inotify wd:3 ino:5b2 sdev:1").expect_err("it has no mask");
}

#[test]
fn watches_are_made_again_with_their_numbers() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = sys::watches().expect("an inotify");
    let path = directory.path().as_os_str().as_bytes();
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let number = sys::add_watch(first.as_fd(), path, libc::IN_CREATE).expect("a watch");
    sys::remove_watch(first.as_fd(), number).expect("a watch");
    sys::drain(first.as_fd()).expect("an event");
    let file = file.as_os_str().as_bytes();
    let add = |path: &[u8], mask| sys::add_watch(first.as_fd(), path, mask).expect("a watch");
    assert_eq!(
        (add(path, libc::IN_CREATE), add(file, libc::IN_MODIFY)),
        (2, 3)
    );
    let Ok(Ok(read)) = Watches::read(first.as_fd()) else {
        // Some file systems have no handles.
        return eprintln!("SKIPPED: {} has no handles", directory.path().display());
    };
    assert_eq!(read.watches[0].path, path);
    assert_eq!(
        (read.watches[1].number, &read.watches[1].path[..]),
        (3, file)
    );
    let again = read.make().expect("an inotify");
    read.start(&again).expect("watches");
    assert_eq!(Watches::read(again.as_fd()).expect("watches"), Ok(read));
}
