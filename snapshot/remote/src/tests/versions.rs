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
