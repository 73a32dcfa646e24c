use std::sync::{Arc, Mutex};

use super::{Lack, Listener, Reason, Shortage};

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
    assert_eq!(shortage.set(None), None, "there was none");
    let [blocks, medium] = [Lack::Blocks, Lack::Medium].map(Reason::Lacks);
    assert_eq!(shortage.set(Some(blocks)), Some(None));
    assert_eq!(shortage.set(Some(blocks)), None);
    assert_eq!(shortage.set(Some(medium)), Some(Some(blocks)));
    let changed = shortage.set(Some(Reason::LockForLong));
    assert_eq!(changed, Some(Some(medium)));
    assert_eq!(shortage.reason(), Some(Reason::LockForLong));
    assert_eq!(shortage.set(None), Some(Some(Reason::LockForLong)));
    assert_eq!(*heard.lock().unwrap(), [true, false]);
}

#[test]
fn who_listens_late_hears_that_a_shortage_lasts() {
    let shortage = Shortage::default();
    shortage.set(Some(Reason::Lock));
    let (heard, listener) = heard();
    shortage.tell(listener);
    shortage.set(None);
    assert_eq!(*heard.lock().unwrap(), [true, false]);
}
