use super::*;

fn file() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.record");
    (dir, path)
}

fn start() -> LifeStart {
    LifeStart {
        snapshot: Some("base".into()),
        ..LifeStart::now("web", Some(vec!["restore".into(), "base".into()]))
    }
}

fn read(path: &Path) -> Life {
    Life::read(path).unwrap().unwrap()
}

#[test]
fn a_record_tells_the_life_of_a_vm() {
    let (_dir, path) = file();
    let file = LifeFile::create(&path, &start()).unwrap();
    let begun = read(&path);
    assert_eq!(begun.state.phase, Phase::Starting);
    assert_eq!(
        begun.start.arguments.as_deref(),
        Some(&["restore".into(), "base".into()][..])
    );
    file.running();
    file.rebooted(3);
    let running = read(&path).state;
    assert_eq!((running.phase, running.reboot_count), (Phase::Running, 3));
    assert_eq!(read(&path).end(), End::Killed, "if its process is gone");
    file.ended(End::Failed, Some("no memory"));
    file.ended(End::Stopped, None);
    let ended = read(&path).state;
    assert_eq!((ended.phase, ended.end), (Phase::Ended, Some(End::Failed)));
    assert_eq!(
        (ended.text.as_deref(), ended.reboot_count),
        (Some("no memory"), 3)
    );
    assert!(ended.ended_unix_ns.unwrap() >= begun.start.started_unix_ns);
}

#[test]
fn a_killed_vm_is_noted_once_and_only_if_it_said_nothing() {
    let (_dir, path) = file();
    let file = LifeFile::create(&path, &start()).unwrap();
    file.running();
    read(&path).note_killed(&path).unwrap();
    let noted = read(&path);
    assert_eq!(noted.state.end, Some(End::Killed));
    assert!(noted.state.ended_unix_ns.is_some());
    noted.note_killed(&path).unwrap();
    assert_eq!(read(&path), noted);
    file.ended(End::PoweredOff, None);
    let before = read(&path);
    before.note_killed(&path).unwrap();
    assert_eq!(read(&path).state.end, Some(End::PoweredOff));
}

#[test]
fn a_record_is_bounded_whatever_it_is_told() {
    let (_dir, path) = file();
    let long = vec!["x".repeat(1 << 20)];
    let file = LifeFile::create(&path, &LifeStart::now("web", Some(long))).unwrap();
    for text in ["\u{1}", "ä", "\"", "x"].map(|text| text.repeat(1 << 20)) {
        file.change(|state| state.end(End::Failed, Some(&text), None));
        let read = read(&path);
        assert_eq!(read.state.end, Some(End::Failed));
        assert_eq!(read.start.arguments, None);
        assert!(read.state.text.is_none_or(|kept| text.starts_with(&kept)));
        assert!(path.metadata().unwrap().len() < 2 * STATE_BYTES as u64);
    }
}

#[test]
fn what_is_no_record_is_none() {
    let (_dir, path) = file();
    LifeFile::create(&path, &start()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 1, STATE_BYTES, whole.len() / 2, whole.len() - 3] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(Life::read(&path).unwrap(), None, "{length} bytes");
    }
    let other = String::from_utf8(whole).unwrap();
    std::fs::write(&path, other.replace("\"version\":1", "\"version\":9")).unwrap();
    assert_eq!(Life::read(&path).unwrap(), None);
    std::fs::write(&path, [0xff; 2 * STATE_BYTES]).unwrap();
    assert_eq!(Life::read(&path).unwrap(), None);
}
