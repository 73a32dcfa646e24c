use super::*;

#[test]
fn numbers_in_the_range_are_taken() {
    assert_eq!(parse("1", &(1..=99)), Ok(1));
    assert_eq!(parse("99", &(1..=99)), Ok(99));
    assert_eq!(parse("007", &(1..=99)), Ok(7));
    assert_eq!(between::<u8>(2..=200)("200"), Ok(200u8));
    assert_eq!(between::<i32>(1..=i32::MAX as u32)("4711"), Ok(4711));
}

#[test]
fn others_are_refused_with_the_range() {
    for (text, told) in [
        ("0", "0 is too small: give a number from 1 to 99"),
        ("-3", "-3 is too small: give a number from 1 to 99"),
        ("100", "100 is too large: give a number from 1 to 99"),
        (
            "99999999999999999999",
            "99999999999999999999 is too large: give a number from 1 to 99",
        ),
        ("", "this is no whole number: give a number from 1 to 99"),
        ("two", "this is no whole number: give a number from 1 to 99"),
        ("1.5", "this is no whole number: give a number from 1 to 99"),
        ("+1", "this is no whole number: give a number from 1 to 99"),
    ] {
        assert_eq!(parse(text, &(1..=99)), Err(told.to_owned()));
    }
    assert_eq!(
        parse("0", &(1..=u32::MAX)),
        Err("0 is too small: give a number from 1 on".to_owned())
    );
}
