//! Stores that each version wrote are read.

use std::path::Path;

use super::moving::{key, pull};
use super::pools::*;
use crate::{Store, StoreUrl, Use};

#[test]
fn stores_of_version_1_are_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-1");
    let end: Vec<u8> = (0..9000).map(|at| (at / 7) as u8).collect();
    for (name, key) in [("plain", None), ("sealed", Some(key("5")))] {
        let url = format!("file://{}", fixtures.join(name).display());
        let url = StoreUrl::parse(&url).unwrap();
        let store = Store::open(&url, key.as_ref(), Use::Existing).unwrap();
        assert!(store.verify(&mut go_on).unwrap().faults.is_empty());
        let to = pool_of(32 << 20);
        pull(&store, &to.pool, "a").unwrap();
        assert_eq!(contents(&to.pool, "a"), sparse());
        assert_eq!(end_of_disk(&to.pool, "a", end.len()), end);
    }
}

#[test]
#[ignore = "throwaway"]
fn make_fixtures() {
    use super::moving::push;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-1");
    std::fs::create_dir_all(&fixtures).unwrap();
    let end: Vec<u8> = (0..9000).map(|at| (at / 7) as u8).collect();
    for (name, key) in [("plain", None), ("sealed", Some(key("5")))] {
        let url = format!("file://{}", fixtures.join(name).display());
        let url = StoreUrl::parse(&url).unwrap();
        let store = Store::open(&url, key.as_ref(), Use::Made).unwrap();
        let from = pool_of(32 << 20);
        take_with_disk(&from.pool, "a", &sparse(), &end);
        push(&store, &from.pool, "a").unwrap();
        if name == "plain" {
            let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/remote");
            std::fs::create_dir_all(&seeds).unwrap();
            let object = store.keys.snapshot_object("a");
            let bytes = store
                .objects
                .get(&Store::snapshot_path(&object), 1 << 20)
                .unwrap()
                .unwrap();
            use crate::boxes::BoxKind;
            let (mut head, rest) = store
                .keys
                .unwrap(BoxKind::Head, object.as_bytes(), &bytes, &"")
                .unwrap();
            let push: [u8; 16] = head[..16].try_into().unwrap();
            let (body, _) = store.keys.unwrap(BoxKind::Body, &push, rest, &"").unwrap();
            head[..16].fill(7);
            let mut seed = vec![0];
            seed.extend((head.len() as u16).to_le_bytes());
            seed.extend(&head);
            seed.extend(&body);
            std::fs::write(seeds.join("manifest"), seed).unwrap();
            let mut seed = vec![1];
            let rows = 3_u64;
            seed.extend((60 + 64 + rows * 36 + 16).to_le_bytes());
            for row in 0..rows {
                seed.extend([row as u8; 32]);
                seed.extend(20_u32.to_le_bytes());
            }
            std::fs::write(seeds.join("index"), seed).unwrap();
            let mut seed = vec![2, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
            seed.extend([9; 20]);
            seed.extend([8; 16]);
            std::fs::write(seeds.join("condemned"), seed).unwrap();
            let mut seed = vec![3];
            seed.extend(std::fs::read(fixtures.join("plain/nvvmm-store")).unwrap());
            std::fs::write(seeds.join("first-object"), seed).unwrap();
        }
    }
}
