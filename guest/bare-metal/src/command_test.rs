use super::*;

#[test]
fn commands_read() {
    assert_eq!(parse("fill 16 7"), Some(Command::Fill(Extent::Mib(16), 7)));
    assert_eq!(parse("fill all 0x10"), Some(Command::Fill(Extent::All, 16)));
    assert_eq!(
        parse(" churn  on 5 "),
        Some(Command::ChurnOn(5, Pattern::Seq, Access::Check))
    );
    assert_eq!(
        parse("churn on 5 hot xchg"),
        Some(Command::ChurnOn(5, Pattern::Hot, Access::Exchange))
    );
    assert_eq!(parse("churn off"), Some(Command::ChurnOff));
    assert_eq!(parse("check"), Some(Command::Check { unfilled: false }));
    assert_eq!(parse("check all"), Some(Command::Check { unfilled: true }));
    assert_eq!(parse("digest"), Some(Command::Digest(Extent::All)));
    for (line, touch) in [
        ("touch 3 read", Touch::Read),
        ("touch 3 seq", Touch::Dirty),
        ("touch 3 rand", Touch::DirtyAtRandom),
        ("touch 3 sparse", Touch::DirtySparse),
        ("touch 3 even", Touch::DirtyEven),
        ("touch 3 odd", Touch::DirtyOdd),
    ] {
        assert_eq!(parse(line), Some(Command::Touch(Extent::Mib(3), touch)));
        assert_eq!(Touch::from_code(touch as u64), Some(touch));
    }
    assert_eq!(
        parse("touch all"),
        Some(Command::Touch(Extent::All, Touch::Dirty))
    );
    assert_eq!(parse("write 1 2"), Some(Command::Write(1, 2, 1)));
    assert_eq!(parse("write 1 2 3"), Some(Command::Write(1, 2, 3)));
    assert_eq!(parse(""), Some(Command::Nothing));
}

#[test]
fn anything_else_is_refused() {
    for line in [
        "fill",
        "fill 1",
        "fill -1 2",
        "fill 1 2 3",
        "churn",
        "churn maybe",
        "churn on 1 sideways",
        "churn off now",
        "touch 1 write",
        "write 1",
        "write 1 2 3 4",
        "check some",
        "digest 0x",
        "fill 99999999999999999999 1",
        "Bye",
    ] {
        assert_eq!(parse(line), None, "{line}");
    }
}
