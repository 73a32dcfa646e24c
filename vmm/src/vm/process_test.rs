use super::*;

#[test]
fn reasons_of_a_refusal_stay_lines_and_come_with_a_remedy() {
    let reasons: Vec<String> = (0..11)
        .map(|fd| format!("process 292, fd {fd} is a socket (TCP, listens at 0.0.0.0:{fd})"))
        .collect();
    let said = AgentError::Said {
        because: FailedBecause::Refused,
        message: reasons.join("\n"),
    };
    let error = agent_error(said, REFUSED_CAPTURE);
    assert_eq!(error.kind, ErrorKind::Refused);
    assert_eq!(error.message.lines().count(), 11);
    assert_eq!(
        error.message.lines().last(),
        reasons.last().map(String::as_str)
    );
    assert_eq!(error.remedy.as_deref(), Some(REFUSED_CAPTURE));
}
