use super::*;

#[test]
fn complaints_are_told_from_ordinary_lines() {
    assert_eq!(complaint_in("6,1,0,-;Linux version 6.1.0\n SUBSYSTEM=x\n"), None);
    let stall = "4,400,9,-;watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n";
    assert_eq!(
        complaint_in(stall).as_deref(),
        Some("watchdog: BUG: soft lockup - CPU#0 stuck for 22s!")
    );
    assert!(complaint_in("3,5,6,-;EXT4-fs error (device vda)").is_some());
}
