//! Disks in the catalog.

use crate::{CreateOptions, Error, Pool};

fn pool() -> (tempfile::TempDir, std::sync::Arc<Pool>) {
    let directory = tempfile::tempdir().unwrap();
    let options = CreateOptions {
        size_bytes: 32 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    (directory, pool)
}

fn names(pool: &Pool) -> Vec<String> {
    let disks = pool.disks().unwrap();
    disks.into_iter().map(|disk| disk.name).collect()
}

#[test]
fn disks_are_made_copied_renamed_resized_and_removed() {
    let (_directory, pool) = pool();
    pool.create_disk("data", 20 << 30).unwrap();
    pool.create_disk("odd", 512 * 3).unwrap();
    pool.copy_disk("data", "copy").unwrap();
    pool.rename_disk("odd", "even").unwrap();
    pool.resize_disk("even", 1 << 40).unwrap();
    assert_eq!(names(&pool), ["copy", "data", "even"]);
    assert_eq!(pool.disk("even").unwrap().size_bytes, 1 << 40);
    assert_eq!(pool.disk("copy").unwrap().size_bytes, 20 << 30);
    assert!(pool.check().unwrap().is_clean());
    assert!(pool.entries().unwrap().is_empty(), "disks are no snapshots");
    for name in ["copy", "data", "even"] {
        pool.remove_disk(name).unwrap();
    }
    assert!(names(&pool).is_empty());
    assert!(pool.check().unwrap().is_clean());
}

#[test]
fn what_cannot_be_is_refused() {
    let (_directory, pool) = pool();
    pool.create_disk("data", 1 << 20).unwrap();
    for size in [0, 511, 4097, (32 << 40) + 512] {
        let refused = pool.create_disk("other", size);
        assert!(matches!(refused, Err(Error::InvalidDisk { .. })), "{size}");
    }
    let taken = pool.create_disk("data", 512);
    assert!(matches!(taken, Err(Error::DiskNameTaken { .. })));
    let taken = pool.copy_disk("data", "data");
    assert!(matches!(taken, Err(Error::DiskNameTaken { .. })));
    assert!(matches!(
        pool.create_disk("a/b", 512),
        Err(Error::InvalidName { .. })
    ));
    let missing = pool.remove_disk("date");
    assert!(matches!(missing, Err(Error::NoDisk { near, .. }) if near == ["data"]));
    assert!(matches!(
        pool.resize_disk("data", 512),
        Err(Error::InvalidDisk { .. })
    ));
    assert!(matches!(
        pool.copy_disk_of("no", "data", "x"),
        Err(Error::NotFound { .. })
    ));
}

#[test]
fn an_import_can_learn_its_size_at_its_end() {
    let (_directory, pool) = pool();
    let holder = pool.hold("import").unwrap();
    let mut import = holder.import_disk("data", 32 << 40, 0).unwrap();
    import.write(4096, &[1; 1536]).unwrap();
    for size in [0, 4096, 5000, 5120] {
        let refused = import.set_size(size);
        assert!(matches!(refused, Err(Error::InvalidDisk { .. })), "{size}");
    }
    import.set_size(4096 + 1536).unwrap();
    assert!(import.write(8192, &[1; 512]).is_err(), "behind the end");
    let disk = import.finish().unwrap();
    assert_eq!((disk.size_bytes, disk.blocks), (4096 + 1536, 1));
    assert!(pool.check().unwrap().is_clean());
}
