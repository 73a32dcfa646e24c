use super::*;

#[test]
fn mounts_are_told_apart() {
    let medium = |line| Mount::parse(line).unwrap().medium();
    assert_eq!(medium("none /dev/shm tmpfs rw,relatime 0 0"), "tmpfs");
    assert_eq!(
        medium("none /mnt tmpfs rw,huge=always 0 0"),
        "tmpfs with huge pages"
    );
    assert_eq!(
        medium("none /mnt hugetlbfs rw,pagesize=2M 0 0"),
        "hugetlbfs"
    );
    assert!(Mount::parse("cut off").is_none());
}

#[test]
fn fields_are_found_by_their_whole_name() {
    let text = "MemTotalX:  1 kB\nMemTotal:  2 kB\n";
    assert_eq!(field(text, "MemTotal"), Some("2 kB"));
    assert_eq!(field(text, "Mem"), None);
    assert!(memory_field("MemTotal") > 0);
}

#[test]
fn flags_say_what_kvm_is_made_of() {
    assert_eq!(kvm_kind("flags\t: fpu svm sse\n"), "AMD SVM");
    assert_eq!(
        kvm_kind("flags\t: fpu svm_lock sse\n"),
        "software, without VMX or SVM"
    );
}

#[test]
fn only_media_with_huge_pages_are_taken_for_them() {
    assert_eq!(huge_fault("hugetlbfs", ""), None);
    assert_eq!(
        huge_fault("tmpfs with huge pages", "always [never] deny"),
        None
    );
    for (medium, shmem, fault) in [
        ("ext4", "", "ext4, which has no huge pages"),
        ("tmpfs", "", "a tmpfs that is mounted without huge=always"),
        (
            "tmpfs with huge pages",
            "always never [deny]",
            "gives no huge pages",
        ),
    ] {
        let found = huge_fault(medium, shmem).unwrap();
        assert!(found.contains(fault), "{found}");
    }
}

/// The fault: `bench --huge-dir /tmp` mixed two media in one series.
#[test]
fn a_directory_of_another_kind_is_refused_as_wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let ordinary = Path::new("/dev/shm");
    let refused = check_directories(ordinary, &[dir.path().to_owned()]).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Usage);
    assert!(refused.message.contains("--huge-dir"), "{refused}");
    assert!(refused.remedy.unwrap().contains("huge=always"));
    assert!(check_directories(dir.path(), &[]).is_ok());
    let none = check_directories(&dir.path().join("none"), &[]).unwrap_err();
    assert_eq!(none.kind, ErrorKind::NotFound);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = check_directories(&file, &[]).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Usage);
}
