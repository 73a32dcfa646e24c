use std::thread;

use super::*;
use crate::control::AgentOrders;

fn request() -> TakeRequest {
    TakeRequest {
        program: String::new(),
        pool: "/p".into(),
        snapshot: "base".into(),
        name: "web".into(),
        console: None,
        agent_orders: AgentOrders::default(),
        paused: false,
    }
}

fn standing_by() -> Standby {
    let standby = Standby::default();
    standby.set(State::StandsBy {
        vcpus: 2,
        memory_bytes: 1 << 30,
    });
    standby
}

#[test]
fn only_a_vm_that_stands_by_can_be_taken() {
    let standby = Standby::default();
    assert_eq!(
        standby.take(&request()).unwrap_err().kind,
        ErrorKind::Refused
    );
    assert_eq!(standby.machine(), None);
    let standby = standing_by();
    assert!(standby.wait());
    assert_eq!(standby.machine(), Some((2, 1 << 30)));
    standby.end();
    assert!(!standby.wait());
    assert_eq!(
        standby.take(&request()).unwrap_err().kind,
        ErrorKind::Refused
    );
}

#[test]
fn whoever_takes_it_waits_for_the_answer_and_nobody_else_gets_it() {
    let standby = standing_by();
    thread::scope(|scope| {
        let taker = scope.spawn(|| standby.take(&request()));
        while !matches!(*standby.state(), State::Asked(_)) {
            thread::yield_now();
        }
        assert_eq!(
            standby.take(&request()).unwrap_err().kind,
            ErrorKind::Refused
        );
        standby.set(State::Answered(Ok(())));
        taker.join().unwrap().unwrap();
    });
    assert_eq!(
        standby.take(&request()).unwrap_err().kind,
        ErrorKind::Refused
    );
}

#[test]
fn whoever_takes_it_hears_that_it_ended() {
    let standby = standing_by();
    thread::scope(|scope| {
        let taker = scope.spawn(|| standby.take(&request()));
        while !matches!(*standby.state(), State::Asked(_)) {
            thread::yield_now();
        }
        standby.set(State::Taken);
        standby.end();
        assert_eq!(taker.join().unwrap().unwrap_err().kind, ErrorKind::Refused);
    });
}
