//! Disks by their names, and by paths.

use std::path::{Path, PathBuf};

use nvvmm_snapshot::{CreateOptions, Pool};

use super::*;

/// A directory with a pool that has a disk `root`.
fn place() -> (tempfile::TempDir, PoolOption) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    let options = CreateOptions {
        size_bytes: 16 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&path, &options).unwrap();
    pool.create_disk("root", 1 << 20).unwrap();
    (directory, PoolOption::of(Some(path)))
}

fn choose(pool: &PoolOption, text: impl Into<PathBuf>) -> Result<DiskSource, VmError> {
    let chooser = DiskChooser {
        pool,
        account: None,
    };
    let disk = DiskSpec::of_file(text.into());
    Ok(chooser.choose(vec![disk])?.remove(0).source)
}

#[test]
fn a_name_is_a_disk_of_the_pool_and_a_path_is_a_file() {
    let (directory, pool) = place();
    assert_eq!(
        choose(&pool, "root").unwrap(),
        DiskSource::Pool("root".into())
    );
    let image = directory.path().join("root");
    std::fs::write(&image, [0; 512]).unwrap();
    assert_eq!(choose(&pool, &image).unwrap(), DiskSource::File(image));
    // The tests run in the directory of the crate.
    let file = Path::new("Cargo.toml");
    let found = choose(&pool, file).unwrap();
    assert_eq!(found, DiskSource::File(std::path::absolute(file).unwrap()));
}

#[test]
fn names_of_nothing_and_of_two_things_are_refused_with_a_way_out() {
    let (_directory, pool) = place();
    let refused = choose(&pool, "rot").unwrap_err();
    assert!(refused.remedy.unwrap().contains("'root'"));
    let refused = choose(&pool, "data").unwrap_err();
    assert!(refused.remedy.unwrap().contains("nvvmm disk create data"));
    let opened = Pool::open(&pool.path().unwrap()).unwrap();
    opened.create_disk("Cargo.toml", 512).unwrap();
    let refused = choose(&pool, "Cargo.toml").unwrap_err();
    assert!(refused.remedy.unwrap().contains("./Cargo.toml"));
}
