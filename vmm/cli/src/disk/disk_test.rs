use nvvmm_snapshot::CreateOptions;

use super::*;

fn pool() -> (tempfile::TempDir, Arc<Pool>) {
    let directory = tempfile::tempdir().unwrap();
    let options = CreateOptions {
        size_bytes: 16 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    (directory, pool)
}

#[test]
fn a_list_has_a_row_for_each_disk() {
    let (_directory, pool) = pool();
    pool.create_disk("data", 20 << 30).unwrap();
    pool.create_disk("odd", 1536).unwrap();
    let holder = pool.hold("web").unwrap();
    let head = holder.attach_disk("data").unwrap();
    head.write(0, &[1; 4096]).unwrap();
    let text = table(&pool.disks().unwrap());
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines: Vec<Vec<String>> = text.lines().map(words).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(
        lines[0],
        ["NAME", "MADE", "(UTC)", "SIZE", "USED", "FROM", "WRITER"]
    );
    assert_eq!(lines[1][0], "data");
    assert!(lines[1].contains(&"'web'".to_owned()), "{text}");
    assert_eq!(
        (&*lines[2][0], &*lines[2][3], &*lines[2][4]),
        ("odd", "1.5", "KiB")
    );
    assert_eq!(lines[2].last().unwrap(), "-");
}

#[test]
fn odd_sizes_have_their_bytes() {
    assert_eq!(size_text(20 << 30), "20.0 GiB");
    assert_eq!(size_text(1536), "1.5 KiB (1536 bytes)");
}
