use std::sync::{Arc, Mutex};

use super::{Lack, Listener, Shortage};

fn heard() -> (Arc<Mutex<Vec<bool>>>, Listener) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heard);
    (
        heard,
        Box::new(move |lasts| log.lock().unwrap().push(lasts)),
    )
}

#[test]
fn a_listener_hears_of_every_change_once() {
    let shortage = Shortage::default();
    let (heard, listener) = heard();
    shortage.tell(listener);
    assert!(!shortage.set(None), "there was none");
    assert!(shortage.set(Some(Lack::Blocks)));
    assert!(!shortage.set(Some(Lack::Blocks)));
    assert!(shortage.set(Some(Lack::Medium)), "there are blocks again");
    assert_eq!(shortage.of(), Some(Lack::Medium));
    assert!(shortage.set(None));
    assert_eq!(*heard.lock().unwrap(), [true, false]);
}

#[test]
fn who_listens_late_hears_that_a_shortage_lasts() {
    let shortage = Shortage::default();
    shortage.set(Some(Lack::Kernel));
    let (heard, listener) = heard();
    shortage.tell(listener);
    shortage.set(None);
    assert_eq!(*heard.lock().unwrap(), [true, false]);
}
