use super::*;

#[test]
fn answers_have_one_form() {
    let answer = Answer::ok()
        .with("pages", 7)
        .with_list("cpus", [0, 1])
        .with_text(Some("all\r\nright"));
    assert_eq!(
        answer_line(Some("#9"), "check", &Ok(answer)),
        "@ ok #9 check pages=7 cpus=0,1 -- all  right"
    );
    assert_eq!(
        answer_line(None, "check", &Ok(Answer::judged(false))),
        "@ bad check"
    );
    assert_eq!(
        answer_line(None, "fill", &Err("no\nmemory".into())),
        "@ err fill -- no memory"
    );
}
