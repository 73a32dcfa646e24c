use super::*;

fn text() -> String {
    "text".to_owned()
}

/// Does not compile without a line for each variant.
fn kind_by_hand(error: &Error) -> ErrorKind {
    match error {
        Error::Url { .. } => ErrorKind::Usage,
        Error::NoStore { .. } => ErrorKind::NotFound,
        Error::Version { .. } => ErrorKind::Refused,
        Error::NeedsKey => ErrorKind::Refused,
        Error::NotEncrypted => ErrorKind::Refused,
        Error::WrongKey => ErrorKind::Refused,
        Error::NameTaken { .. } => ErrorKind::Refused,
        Error::NotFound { .. } => ErrorKind::NotFound,
        Error::NoConditionalWrites => ErrorKind::Refused,
        Error::PushEnded { .. } => ErrorKind::Refused,
        Error::NoSuchPush { .. } => ErrorKind::NotFound,
        Error::Damaged { .. } => ErrorKind::Refused,
        Error::Missing { .. } => ErrorKind::Refused,
        Error::TooLarge { .. } => ErrorKind::Refused,
        Error::Denied { .. } => ErrorKind::Denied,
        Error::Failed { .. } => ErrorKind::Failed,
        // That of the pool's error.
        Error::Pool(_) => ErrorKind::PoolFull,
    }
}

#[test]
fn each_error_of_a_store_has_a_kind_and_a_remedy() {
    let (needed, free) = (3, 1);
    for error in [
        Error::Url { what: text() },
        Error::NoStore { url: text() },
        Error::Version {
            found: 9,
            expected: 1,
        },
        Error::NeedsKey,
        Error::NotEncrypted,
        Error::WrongKey,
        Error::NameTaken { name: text() },
        Error::NotFound {
            name: text(),
            url: text(),
            near: vec![],
        },
        Error::NotFound {
            name: text(),
            url: text(),
            near: vec![text()],
        },
        Error::NoConditionalWrites,
        Error::PushEnded { push: text() },
        Error::NoSuchPush { push: text() },
        Error::Damaged {
            object: text(),
            what: text(),
        },
        Error::Missing { object: text() },
        Error::TooLarge { limit: 1 },
        Error::Denied { what: text() },
        Error::Failed {
            op: text(),
            what: text(),
        },
        Error::Pool(nvvmm_snapshot::Error::PoolFull { needed, free }),
    ] {
        let kind = kind_by_hand(&error);
        let shown = told(error);
        assert_eq!(shown.kind, kind, "{shown}");
        assert!(shown.remedy.is_some(), "{shown}");
    }
}
