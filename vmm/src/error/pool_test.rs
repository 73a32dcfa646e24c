use std::io;

use super::*;

/// `vm/kinds_test.rs` has all variants.
#[test]
fn pool_errors_keep_their_text_and_get_the_kind_of_their_exit_code() {
    let name = || "base".to_owned();
    let cases = [
        (
            Error::NotFound {
                name: name(),
                pool: "/p".into(),
                near: Vec::new(),
            },
            ErrorKind::NotFound,
        ),
        (Error::NameTaken { name: name() }, ErrorKind::Refused),
        (
            Error::Busy {
                name: name(),
                holder: "web".to_owned(),
            },
            ErrorKind::Refused,
        ),
        (Error::PoolFull { needed: 3, free: 1 }, ErrorKind::PoolFull),
        (Error::InvalidName { name: name() }, ErrorKind::Usage),
        (
            Error::Io {
                op: "open".to_owned(),
                source: io::ErrorKind::NotFound.into(),
            },
            ErrorKind::NotFound,
        ),
        (
            Error::Io {
                op: "create".to_owned(),
                source: io::Error::from_raw_os_error(libc::ENOSPC),
            },
            ErrorKind::PoolFull,
        ),
        (
            Error::NoDevice {
                path: "/dev/dax0.0".into(),
            },
            ErrorKind::NotFound,
        ),
        (
            Error::NoDirectory { path: "/d".into() },
            ErrorKind::NotFound,
        ),
        (
            Error::NoPlace {
                path: "/d".into(),
                what: "it is a directory".to_owned(),
            },
            ErrorKind::Usage,
        ),
        (Error::Unlinked { path: "/p".into() }, ErrorKind::Refused),
        (
            Error::Io {
                op: "open".to_owned(),
                source: io::ErrorKind::PermissionDenied.into(),
            },
            ErrorKind::Denied,
        ),
    ];
    for (error, kind) in cases {
        let text = error.to_string();
        let shown = VmError::from(error);
        // The system's number is left out.
        let words = text.split(" (os error ").next().unwrap();
        assert_eq!((shown.kind, shown.message.as_str()), (kind, words));
    }
}

#[test]
fn what_the_user_can_do_is_said_beside_the_cause() {
    let unknown = |near: &[&str]| Error::NotFound {
        name: "bas".to_owned(),
        pool: "/p".into(),
        near: near.iter().map(|name| (*name).to_owned()).collect(),
    };
    let cases = [
        (unknown(&[]), "nvvmm snapshots"),
        (unknown(&["base"]), "similar names: 'base'"),
        (
            Error::NameTaken {
                name: "base".to_owned(),
            },
            "nvvmm rm base",
        ),
        (Error::PoolFull { needed: 3, free: 1 }, "nvvmm rm"),
        (Error::NoDirectory { path: "/d".into() }, "'mkdir -p /d'"),
        (Error::Unlinked { path: "/p".into() }, "another pool"),
        (
            Error::Version {
                found: 9,
                expected: 1,
            },
            "nvvmm version",
        ),
        (
            Error::NoSpaceOnMedium {
                medium: "tmpfs",
                needed_bytes: 2,
                available_bytes: 1,
            },
            "--overcommit",
        ),
        (
            Error::MediumFull {
                medium: "tmpfs",
                needed_bytes: 4096,
                available_bytes: 0,
            },
            "'df'",
        ),
    ];
    for (error, words) in cases {
        let shown = VmError::from(error);
        let remedy = shown.remedy.unwrap_or_default();
        assert!(remedy.contains(words), "{}: {remedy}", shown.message);
        assert!(
            !shown.message.contains(words),
            "said twice: {}",
            shown.message
        );
    }
}

#[test]
fn the_process_that_has_the_pool_locked_is_looked_at_where_it_can_be_seen() {
    let own = std::process::id();
    let bare = VmError::new(ErrorKind::Refused, format!("{LOCKED_BY}{own}"));
    let seen = bare.with_holder_seen();
    assert!(
        seen.message.starts_with(&format!("{LOCKED_BY}{own} (")),
        "{seen}"
    );
    assert!(seen.remedy.unwrap().contains(&own.to_string()));
    let other = VmError::failed("the pool is locked by process 12, which is stopped");
    assert_eq!(other.clone().with_holder_seen(), other);
}
