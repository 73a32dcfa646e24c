use std::{
    sync::mpsc,
    thread::{self, ThreadId},
};

use super::Workers;

fn thread_of(workers: &Workers) -> ThreadId {
    let id = workers.run(|| thread::current().id(), || false);
    id.unwrap().unwrap()
}

#[test]
fn work_is_done_by_the_same_thread_again_and_not_by_the_one_that_asks() {
    let workers = Workers::new().unwrap();
    let first = thread_of(&workers);
    assert_ne!(first, thread::current().id());
    assert_eq!(first, thread_of(&workers));
}

#[test]
fn work_that_is_given_up_goes_on_and_keeps_its_thread() {
    let workers = Workers::new().unwrap();
    let first = thread_of(&workers);
    let (release, held) = mpsc::channel::<()>();
    let (ended, end) = mpsc::channel();
    let given_up = workers.run(
        move || {
            held.recv().unwrap();
            ended.send(thread::current().id()).unwrap();
        },
        || true,
    );
    let given_up = given_up.unwrap();
    assert!(given_up.is_none());
    assert_ne!(first, thread_of(&workers));
    release.send(()).unwrap();
    assert_eq!(end.recv().unwrap(), first);
}

#[test]
fn work_that_panics_has_no_result_and_the_next_one_has() {
    let workers = Workers::new().unwrap();
    let panicked = workers.run(|| panic!("on purpose"), || false);
    assert!(panicked.unwrap().is_none());
    assert_eq!(workers.run(|| 7, || false).unwrap(), Some(7));
}
