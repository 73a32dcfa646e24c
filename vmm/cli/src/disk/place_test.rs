use super::*;

#[test]
fn a_place_is_a_disk_or_one_of_a_snapshot() {
    let place = |snapshot: Option<&str>, disk: &str| DiskPlace {
        snapshot: snapshot.map(str::to_owned),
        disk: disk.to_owned(),
    };
    assert_eq!(disk_place("data"), Ok(place(None, "data")));
    assert_eq!(disk_place("web@3:data"), Ok(place(Some("web@3"), "data")));
    for text in ["data", "web@3:data"] {
        assert_eq!(disk_place(text).unwrap().to_string(), text);
    }
    for text in ["", ":", "a:", ":a", "a:b:c", "a/b", "-a", "a b:c"] {
        assert!(disk_place(text).is_err(), "{text}");
    }
    assert!(new_disk_name("a*").unwrap_err().contains("no pattern"));
}

#[test]
fn a_size_is_a_multiple_of_512_up_to_32_tib() {
    assert_eq!(disk_size("20G"), Ok(20 << 30));
    assert_eq!(disk_size("1536"), Ok(1536));
    assert_eq!(disk_size("32T"), Ok(32 << 40));
    assert_eq!(new_disk_size("+10G"), Ok(NewSize::More(10 << 30)));
    assert_eq!(new_disk_size("10G"), Ok(NewSize::Whole(10 << 30)));
    for (text, why) in [
        ("0", "512 bytes at least"),
        ("1000", "the nearest sizes are 512 and 1024"),
        ("33T", "the largest size is 32 TiB"),
        ("much", "not a size"),
        ("+", "the number is missing"),
    ] {
        let fault = new_disk_size(text).unwrap_err();
        assert!(fault.contains(why), "{text}: {fault}");
    }
}
