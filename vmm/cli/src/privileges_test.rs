use super::*;

fn refused(uid: &str, gid: Option<&str>) -> VmError {
    account(uid, gid).unwrap_err()
}

#[test]
fn an_account_is_named_by_number_or_name() {
    let by_number = account("12345", Some("12346")).unwrap();
    assert_eq!(
        (by_number.uid.as_raw(), by_number.gid.as_raw()),
        (12345, 12346)
    );
    assert_eq!(by_number.groups, [Gid::from_raw(12346)]);
    let Ok(Some(nobody)) = User::from_name("nobody") else {
        return;
    };
    let by_name = account("nobody", None).unwrap();
    assert_eq!((by_name.uid, by_name.gid), (nobody.uid, nobody.gid));
    assert!(by_name.groups.contains(&nobody.gid));
    assert!(!by_name.groups.contains(&Gid::from_raw(0)));
}

#[test]
fn what_is_no_account_is_refused_with_a_remedy() {
    for (uid, gid, kind) in [
        ("no-such-user", None, ErrorKind::NotFound),
        ("12345", Some("no-such-group"), ErrorKind::NotFound),
        ("12345", None, ErrorKind::Usage),
        ("0", None, ErrorKind::Usage),
        ("root", Some("12345"), ErrorKind::Usage),
        ("12345", Some("0"), ErrorKind::Usage),
        ("-1", None, ErrorKind::NotFound),
        ("4294967295", Some("12345"), ErrorKind::NotFound),
        ("12345", Some("4294967295"), ErrorKind::NotFound),
        ("4294967296", None, ErrorKind::NotFound),
    ] {
        let error = refused(uid, gid);
        assert_eq!(error.kind, kind, "{uid}: {error}");
        assert!(error.remedy.is_some(), "{uid}: {error}");
    }
}
