use super::*;

#[test]
fn complaints_are_told_from_ordinary_lines() {
    assert_eq!(
        complaint_in("6,1,0,-;Linux version 6.1.0\n SUBSYSTEM=x\n"),
        None
    );
    let stall = "4,400,9,-;watchdog: BUG: soft lockup - CPU#0 stuck for 22s!\n";
    assert_eq!(
        complaint_in(stall).as_deref(),
        Some("watchdog: BUG: soft lockup - CPU#0 stuck for 22s!")
    );
    assert!(complaint_in("3,5,6,-;EXT4-fs error (device vda)").is_some());
}

#[test]
fn what_follows_a_complaint_is_told_with_it() {
    let records = [
        "6,1,0,-;Linux version 6.1.0\n",
        "4,2,1500000,-;BUG: kernel NULL pointer dereference\n",
        "6,3,1600000,-;RIP: 0010:here\n",
    ];
    let mut found = Findings::default();
    records.iter().for_each(|record| found.add(record, 0));
    assert_eq!(found.complaints, ["BUG: kernel NULL pointer dereference"]);
    assert_eq!(
        found.context,
        [
            "1.500 BUG: kernel NULL pointer dereference",
            "1.600 RIP: 0010:here"
        ]
    );
    assert_eq!(found.lines, 3);
    let mut later = Findings::default();
    records.iter().for_each(|record| later.add(record, 2));
    assert_eq!((later.complaints.len(), later.context.len()), (0, 0));
}
