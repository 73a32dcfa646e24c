use super::*;

fn files(name: &str) -> Files {
    let folder = std::env::temp_dir().join(format!("nvvmm-witness-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    Files { folder }
}

#[test]
fn written_files_verify() {
    let files = files("verify");
    files.write(5, 10_000, 3).unwrap();
    let verdict = files.verify().unwrap();
    assert_eq!(
        verdict,
        Verdict {
            files: 5,
            content_bytes: 50_000,
            damaged: vec![]
        }
    );
    files.write(2, 100, 4).unwrap();
    assert_eq!(
        files.verify().unwrap().content_bytes,
        30_200,
        "two were replaced"
    );
    fs::remove_dir_all(files.folder).unwrap();
}

#[test]
fn a_changed_a_short_a_swapped_and_an_empty_file_are_found() {
    let files = files("damage");
    files.write(5, 5_000, 3).unwrap();
    let path = |number: u64| files.folder.join(format!("{number:06}"));
    let mut bytes = fs::read(path(0)).unwrap();
    bytes[4_999] ^= 1;
    fs::write(path(0), &bytes).unwrap();
    fs::write(path(1), &fs::read(path(1)).unwrap()[..4_096]).unwrap();
    fs::copy(path(4), path(2)).unwrap();
    fs::write(path(3), b"").unwrap();
    let verdict = files.verify().unwrap();
    assert_eq!(verdict.files, 5);
    assert_eq!(verdict.damaged.len(), 4, "{:?}", verdict.damaged);
    fs::remove_dir_all(files.folder).unwrap();
}

#[test]
fn an_unfinished_file_is_not_counted() {
    let files = files("unfinished");
    files.write(1, 100, 3).unwrap();
    fs::write(files.folder.join(".unfinished-1"), b"half").unwrap();
    assert_eq!(files.verify().unwrap().files, 1);
    fs::remove_dir_all(files.folder).unwrap();
}
