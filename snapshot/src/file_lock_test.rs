use super::*;

fn pair() -> (File, File) {
    let file = tempfile::tempfile().unwrap();
    let other = reopen(&file, Path::new("test")).unwrap();
    (file, other)
}

#[test]
fn the_catalog_lock_names_its_holder_from_the_moment_it_is_taken() {
    let (one, other) = pair();
    let take = |file| try_lock(file, LockPlace::Catalog, LockMode::Exclusive).unwrap();
    assert_eq!(holder_of(&other, LockPlace::Catalog).unwrap(), None);
    assert!(take(&one));
    assert!(!take(&other));
    let first = holder_of(&other, LockPlace::Catalog).unwrap().unwrap();
    assert_eq!(first.pid(), Some(std::process::id()));
    assert_eq!(
        holder_of(&one, LockPlace::Catalog).unwrap(),
        None,
        "no other one has it"
    );
    unlock(&one, LockPlace::Catalog).unwrap();
    assert_eq!(holder_of(&other, LockPlace::Catalog).unwrap(), None);
    assert!(take(&one));
    let again = holder_of(&other, LockPlace::Catalog).unwrap().unwrap();
    assert_ne!(first.turn(), again.turn(), "it was given back in between");
    unlock(&one, LockPlace::Catalog).unwrap();
    assert!(take(&other));
}

#[test]
fn a_program_that_locks_one_byte_excludes_others_and_is_excluded() {
    let (one, other) = pair();
    let one_byte = |file: &File, kind: i32| {
        let asked = libc::flock {
            l_type: kind as i16,
            ..range(LockPlace::Catalog)
        };
        fcntl(file, FcntlArg::F_OFD_SETLK(&asked)).is_ok()
    };
    assert!(one_byte(&one, libc::F_WRLCK));
    assert!(!try_lock(&other, LockPlace::Catalog, LockMode::Exclusive).unwrap());
    let holder = holder_of(&other, LockPlace::Catalog).unwrap().unwrap();
    assert_eq!(holder.pid(), None);
    assert!(one_byte(&one, libc::F_UNLCK));
    assert!(try_lock(&other, LockPlace::Catalog, LockMode::Exclusive).unwrap());
    assert!(!one_byte(&one, libc::F_WRLCK));
}

#[test]
fn the_other_locks_are_not_touched_by_the_catalog_lock() {
    let (one, other) = pair();
    let places = [
        LockPlace::Open,
        LockPlace::Holder(0),
        LockPlace::Holder(255),
    ];
    for place in places {
        assert!(try_lock(&one, place, LockMode::Exclusive).unwrap());
    }
    assert!(try_lock(&one, LockPlace::Catalog, LockMode::Exclusive).unwrap());
    unlock(&one, LockPlace::Catalog).unwrap();
    for place in places {
        assert!(is_locked_elsewhere(&other, place).unwrap());
    }
}
