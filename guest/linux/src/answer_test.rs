use super::*;

#[test]
fn answers_have_one_form() {
    let answer = Answer::ok()
        .with("pages", 7)
        .with_list("cpus", [0, 1])
        .with_text(Some("all\r\nright"));
    assert_eq!(
        answer_line(Some("#9"), "check", &Ok(answer)),
        "@ check ok #9 pages=7 cpus=0,1 -- all  right"
    );
    assert_eq!(
        answer_line(None, "check", &Ok(Answer::judged(false))),
        "@ check bad"
    );
    assert_eq!(
        answer_line(None, "fill", &Err("no\nmemory".into())),
        "@ fill err -- no memory"
    );
}
