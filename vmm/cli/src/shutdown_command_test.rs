use super::*;

fn heard(messages: &[FromAgent]) -> Option<Answer> {
    let (ours, agent) = UnixStream::pair().unwrap();
    for message in messages {
        send(&agent, message).unwrap();
    }
    drop(agent);
    hear(&ours)
}

fn reason(messages: &[FromAgent]) -> String {
    match heard(messages) {
        Some(Answer::Failed(why)) => why,
        _ => panic!("no failure"),
    }
}

#[test]
fn a_guest_that_ends_its_programs_is_shutting_down() {
    for ended in [Ended::Code(0), Ended::Signal(15)] {
        assert!(matches!(
            heard(&[FromAgent::Exited(ended)]),
            Some(Answer::Asked)
        ));
    }
    assert!(heard(&[]).is_none());
}

#[test]
fn a_guest_that_refuses_says_why() {
    let said = reason(&[
        FromAgent::ErrorData(b"poweroff: must be root\n".to_vec()),
        FromAgent::ErrorData(vec![b'x'; 1000]),
        FromAgent::Exited(Ended::Code(1)),
    ]);
    assert!(said.starts_with("'poweroff' in the guest failed with 1: poweroff: must be root"));
    assert!(said.len() < 600, "{}", said.len());
    let missing = FromAgent::Failed {
        because: FailedBecause::NotFound,
        message: "no such file".into(),
    };
    assert_eq!(reason(&[missing]), "the guest has no program 'poweroff'");
}

#[test]
fn the_errors_name_the_vm_the_time_and_a_way_out() {
    let late = not_in_time("web", Duration::from_secs(90));
    assert_eq!(
        late.message,
        "the guest of VM 'web' has not shut down in 1m 30s"
    );
    assert!(late.remedy.unwrap().contains("nvvmm stop web"));
    let unasked = not_asked("web", "no agent", Some("install it".into()));
    assert_eq!(
        unasked.remedy.unwrap(),
        "install it; 'nvvmm stop web' ends the VM without its guest"
    );
}
