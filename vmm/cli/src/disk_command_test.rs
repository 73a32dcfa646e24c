use super::*;

#[test]
fn disks_with_another_size_are_told_one_in_a_line() {
    assert_eq!(text("db", &[]), "no disk of db has another size\n");
    let disk = |path: &str, size_bytes| ResizedDisk {
        path: path.into(),
        size_bytes,
    };
    let disks = [
        disk("/srv/root.img", 30 << 30),
        disk("/srv/a\x1b.img", 1024),
    ];
    let text = text("db", &disks);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "disk /srv/root.img of db: 30.0 GiB");
    assert!(!lines[1].contains('\x1b') && lines.len() == 2, "{text}");
}
