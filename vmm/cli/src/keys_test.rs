use super::*;

fn typed(all: &[u8]) -> Vec<Step> {
    Keys::default().typed(all, Instant::now())
}

fn to_guest(bytes: &[u8]) -> Step {
    Step::ToGuest(bytes.to_vec())
}

#[test]
fn all_keys_go_to_the_guest_but_ctrl_bracket() {
    let all: Vec<u8> = (0..=255).filter(|&key| key != ESCAPE_KEY).collect();
    assert_eq!(typed(&all), [to_guest(&all)]);
    assert_eq!(typed(b""), []);
}

#[test]
fn ctrl_bracket_leaves_with_any_key_and_with_none() {
    for after in [b'\r', b'\n', b'd', b'x', ESCAPE_KEY] {
        let keys = [b'l', b's', ESCAPE_KEY, after, b'z'];
        assert_eq!(typed(&keys), [to_guest(b"ls"), Step::Ask, Step::Leave]);
    }
    let (mut keys, now) = (Keys::default(), Instant::now());
    assert_eq!(keys.until(), None);
    assert_eq!(keys.typed(&[ESCAPE_KEY], now), [Step::Ask]);
    let until = keys.until().unwrap();
    assert!(until > now);
    assert_eq!(keys.late(now), []);
    assert_eq!(keys.late(until), [Step::Leave]);
    // The terminal is gone.
    assert_eq!(keys.typed(b"", now), [Step::Leave]);
}

#[test]
fn a_vm_ends_after_a_second_key_and_a_question_only() {
    assert_eq!(
        typed(b"\x1dqyls"),
        [Step::Ask, Step::AskToEnd, Step::EndVm, to_guest(b"ls")]
    );
    for no in [&b"\x1dqnls"[..], b"\x1dqqls", b"\x1dq\rls", b"\x1dq\x1dls"] {
        let steps = typed(no);
        assert_eq!(
            steps,
            [Step::Ask, Step::AskToEnd, Step::Back, to_guest(b"ls")]
        );
    }
    let (mut keys, now) = (Keys::default(), Instant::now());
    keys.typed(b"\x1dq", now);
    let until = keys.until().unwrap();
    assert_eq!((keys.late(until), keys), (vec![Step::Back], Keys::ToGuest));
}

#[test]
fn one_can_go_back_to_the_guest() {
    assert_eq!(
        typed(b"\x1dbq\x1d"),
        [Step::Ask, Step::Back, to_guest(b"q"), Step::Ask]
    );
}
