//! Waits for space.

use std::sync::Arc;

use super::*;

#[test]
fn a_request_waits_until_there_is_space_and_the_listener_hears_of_both() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let space = Space::default();
    let noted = Arc::clone(&heard);
    space.tell(Box::new(move |wanting| noted.lock().unwrap().push(wanting)));
    let no_memory = Error::MediumFull {
        medium: "tmpfs",
        needed_bytes: 1,
        available_bytes: 0,
    };
    let mut answers = vec![
        Ok(()),
        Err(no_memory),
        Err(Error::PoolFull { needed: 1, free: 0 }),
    ];
    space.wait_for(|| answers.pop().unwrap()).unwrap();
    space.wait_for(|| Ok(())).unwrap();
    let expected = [Some(Wanting::Blocks), Some(Wanting::Medium), None];
    assert_eq!(*heard.lock().unwrap(), expected);
}

#[test]
fn any_other_error_is_not_waited_for() {
    let space = Space::default();
    space.tell(Box::new(|_| panic!("nothing is waited for")));
    let mut count = 0;
    let refused = space.wait_for(|| {
        count += 1;
        Err(Error::NoDisksYet)
    });
    assert!(matches!(refused, Err(Error::NoDisksYet)), "{refused:?}");
    assert_eq!(count, 1);
}
