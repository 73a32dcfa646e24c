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
    assert_eq!(parse("give report 3"), Some(Command::Give(Way::Report, 3)));
    assert_eq!(
        parse("give balloon 1"),
        Some(Command::Give(Way::Balloon, 1))
    );
    assert_eq!(parse("give lie"), Some(Command::GiveAll));
    assert_eq!(parse("write 1 2"), Some(Command::Write(1, 2, 1)));
    assert_eq!(parse("write 1 2 3"), Some(Command::Write(1, 2, 3)));
    let walk = |at_random, writes| Walk { at_random, writes };
    assert_eq!(
        parse("pace on all"),
        Some(Command::PaceOn(Extent::All, walk(false, true), u64::MAX))
    );
    assert_eq!(
        parse("pace on 10% rand read 600000"),
        Some(Command::PaceOn(
            Extent::Percent(10),
            walk(true, false),
            600_000
        ))
    );
    for code in 0..4 {
        assert_eq!(Walk::from_code(code).code(), code);
    }
    assert_eq!(parse("pace"), Some(Command::Pace));
    assert_eq!(parse("pace off"), Some(Command::PaceOff));
    assert_eq!(parse("pace gaps"), Some(Command::PaceGaps));
    assert_eq!(parse("pace check"), Some(Command::PaceCheck));
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
        "pace on",
        "pace on 101%",
        "pace on all up",
        "pace on all seq write 1 2",
        "pace then",
        "digest 0x",
        "fill 99999999999999999999 1",
        "Bye",
    ] {
        assert_eq!(parse(line), None, "{line}");
    }
}
