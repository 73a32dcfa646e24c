use std::sync::{Arc, Mutex};

use super::{Listener, Shortage};

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
    assert!(!shortage.set(false), "there was none");
    assert!(shortage.set(true));
    assert!(!shortage.set(true));
    assert!(shortage.set(false));
    assert_eq!(*heard.lock().unwrap(), [true, false]);
}

#[test]
fn who_listens_late_hears_that_a_shortage_lasts() {
    let shortage = Shortage::default();
    shortage.set(true);
    let (heard, listener) = heard();
    shortage.tell(listener);
    shortage.set(false);
    assert_eq!(*heard.lock().unwrap(), [true, false]);
}
