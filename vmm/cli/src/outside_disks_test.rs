use super::*;

fn disk(path: &str, checked: bool) -> OutsideDisk {
    OutsideDisk {
        path: path.into(),
        checked,
    }
}

#[test]
fn each_disk_is_named_in_one_line() {
    assert_eq!(text(&[]), "");
    assert_eq!(
        text(&[disk("/srv/a.img", true), disk("/srv/b.img", true)]),
        "nvvmm: note: disk /srv/a.img, /srv/b.img not included; a restore is refused if written \
         after this\n"
    );
    let both = text(&[disk("/srv/a.img", true), disk("/dev/vg/b", false)]);
    assert_eq!(both.lines().count(), 1, "{both}");
    for words in ["/srv/a.img", "/dev/vg/b", "not noticed"] {
        assert!(both.contains(words), "{both}");
    }
    let forged = text(&[disk("/a\nnvvmm: forged", true)]);
    assert_eq!(forged.lines().count(), 1, "{forged}");
}
