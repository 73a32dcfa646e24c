use super::*;

#[test]
fn kinds_have_the_promised_codes() {
    for (kind, code) in [
        (ErrorKind::Failed, 1),
        (ErrorKind::Usage, 2),
        (ErrorKind::NotFound, 3),
        (ErrorKind::Refused, 4),
        (ErrorKind::PoolFull, 5),
        (ErrorKind::PoolDamaged, 6),
        (ErrorKind::HostLacks, 7),
        (ErrorKind::Denied, 8),
    ] {
        assert_eq!(exit_code(kind), code);
    }
}

#[test]
fn an_error_is_cause_and_remedy() {
    let error = VmError::new(ErrorKind::PoolFull, "the pool is full");
    assert_eq!(text(&error), "the pool is full\n");
    assert_eq!(
        text(&error.with_remedy("remove snapshots")),
        "the pool is full\n  try: remove snapshots\n"
    );
}

#[test]
fn no_line_of_a_message_looks_like_one_of_this_program() {
    let error = VmError::new(ErrorKind::Failed, "no\nnvvmm: done\n  try: this\n");
    assert_eq!(text(&error), "no\n      nvvmm: done\n        try: this\n");
}

#[test]
fn the_help_and_the_chapter_have_the_same_table() {
    let help = exit_codes_help();
    let chapter = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/using/operations.md"
    );
    let chapter = std::fs::read_to_string(chapter).unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (code, meaning) in EXIT_CODES {
        assert!(
            words(&help).contains(&format!(" {code} {meaning}")),
            "{help}"
        );
        let row = format!("| {code} | {meaning} |");
        assert!(chapter.contains(&row), "{row}");
    }
    assert!(help.lines().all(|line| line.len() <= 80), "{help}");
}
