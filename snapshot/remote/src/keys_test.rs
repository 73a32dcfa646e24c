use super::*;

const SALT: [u8; SALT_BYTES] = [7; SALT_BYTES];

fn keys(sealed: bool) -> StoreKeys {
    let key = Key::from_text(&"a".repeat(64)).expect("64 digits");
    StoreKeys::of(&SALT, sealed.then_some(&key))
}

#[test]
fn a_box_is_opened_in_its_place_only_and_as_it_was() {
    for keys in [keys(false), keys(true)] {
        let wrapped = keys.wrap(BoxKind::Index, b"here", b"payload").unwrap();
        let open = |kind, bound: &[u8], bytes: &[u8]| {
            let opened = keys.unwrap(kind, bound, bytes, &"it");
            opened.map(|(payload, behind)| (payload, behind.len()))
        };
        let mut longer = wrapped.clone();
        longer.extend_from_slice(b"more");
        let opened = open(BoxKind::Index, b"here", &longer).unwrap();
        assert_eq!(opened, (b"payload".to_vec(), 4));
        assert!(open(BoxKind::Index, b"there", &wrapped).is_err());
        assert!(open(BoxKind::Body, b"here", &wrapped).is_err());
        for at in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[at] ^= 1;
            assert!(
                open(BoxKind::Index, b"here", &changed).is_err(),
                "byte {at}"
            );
            assert!(
                open(BoxKind::Index, b"here", &wrapped[..at]).is_err(),
                "cut at {at}"
            );
        }
    }
}

#[test]
fn the_same_piece_is_the_same_bytes_and_another_store_names_it_otherwise() {
    for keys in [keys(false), keys(true)] {
        let name = keys.piece_name(b"content");
        let stored = keys.seal_piece(&name, b"compressed".to_vec()).unwrap();
        assert_eq!(
            keys.seal_piece(&name, b"compressed".to_vec()).unwrap(),
            stored
        );
        assert_eq!(keys.open_piece(&name, &stored).unwrap(), b"compressed");
    }
    let other = StoreKeys::of(&[8; SALT_BYTES], None);
    let names = [keys(false), keys(true), other].map(|keys| keys.piece_name(b"content"));
    assert!(names[0] != names[1] && names[0] != names[2] && names[1] != names[2]);
}

#[test]
fn a_sealed_piece_is_opened_under_its_name_only() {
    let keys = keys(true);
    let name = keys.piece_name(b"content");
    let stored = keys.seal_piece(&name, b"compressed".to_vec()).unwrap();
    assert!(
        keys.open_piece(&keys.piece_name(b"other"), &stored)
            .is_none()
    );
    for at in 0..stored.len() {
        let mut changed = stored.clone();
        changed[at] ^= 1;
        assert!(keys.open_piece(&name, &changed).is_none(), "byte {at}");
        assert!(
            keys.open_piece(&name, &stored[..at]).is_none(),
            "cut at {at}"
        );
    }
}
