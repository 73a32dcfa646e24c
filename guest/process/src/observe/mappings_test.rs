use std::path::Path;

use super::parse;

const SMAPS: &str = "\
55e0c9a00000-55e0c9a02000 r-xp 00001000 fe:00 42                 /tmp/a b\\012c (deleted)
Size:                  8 kB
Rss:                   4 kB
Anonymous:             0 kB
Swap:                  8 kB
ProtectionKey:         3
VmFlags: rd ex mr mw me hg
7ffc00000000-7ffc00021000 rw-s 00000000 00:00 0 
VmFlags: rd wr gd
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex
";

#[test]
fn smaps_are_read() {
    let found = parse(SMAPS.as_bytes()).expect("mappings");
    assert_eq!(found.len(), 2);
    let text = &found[0];
    assert_eq!(
        (text.start, text.end, text.offset, text.inode),
        (0x55e0_c9a0_0000, 0x55e0_c9a0_2000, 0x1000, 42)
    );
    assert_eq!(
        (text.protection, text.shared),
        (libc::PROT_READ | libc::PROT_EXEC, false)
    );
    assert_eq!(text.name, Path::new("/tmp/a b\nc (deleted)"));
    assert_eq!(
        (text.resident_kib, text.swapped_kib, text.protection_key),
        (4, 8, 3)
    );
    assert!(text.has(b"hg") && !text.has(b"wr"));
    assert!(found[1].shared && found[1].has(b"gd") && found[1].name.as_os_str().is_empty());
}

#[test]
fn garbage_is_no_mapping() {
    for text in [
        "Rss: 4 kB",
        "zz-4 r-xp 0 0 0",
        "1000-2000 rw-p 0 0",
        "1000-2000 rw-p 0 0:0 0\nRss: many kB",
    ] {
        assert_eq!(parse(text.as_bytes()), None, "{text}");
    }
}
