use super::{Mount, field, kvm_kind, memory_field};

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
