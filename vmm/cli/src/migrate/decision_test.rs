use super::*;

#[test]
fn the_first_decision_is_read_by_all_that_come_later() {
    let place = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(&place.path().join("run")).unwrap();
    for (id, decided) in [("aa", Decided::Taken), ("bb", Decided::NotTaken)] {
        let mut first = Decision::lock(&dir, id).unwrap();
        assert_eq!(first.decided().unwrap(), Decided::Open);
        first.decide(decided).unwrap();
        drop(first);
        assert_eq!(
            Decision::lock(&dir, id).unwrap().decided().unwrap(),
            decided
        );
    }
    sweep(&dir);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "they are new");
}

#[test]
fn who_comes_second_waits_for_the_decision() {
    let place = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(&place.path().join("run")).unwrap();
    let mut first = Decision::lock(&dir, "cc").unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| Decision::lock(&dir, "cc").unwrap().decided().unwrap());
        first.decide(Decided::Taken).unwrap();
        drop(first);
        assert_eq!(second.join().unwrap(), Decided::Taken);
    });
}
