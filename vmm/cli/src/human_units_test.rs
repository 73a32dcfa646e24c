use super::*;

#[test]
fn tables_are_aligned_without_trailing_blanks() {
    let rows = [
        vec!["├─ web".to_owned(), "4.0 KiB".to_owned(), "x".to_owned()],
        vec![
            "a-long-name".to_owned(),
            "512.0 MiB".to_owned(),
            String::new(),
        ],
    ];
    let text = table(
        &[
            Column::Text("NAME"),
            Column::Number("OWN"),
            Column::Text("LAST"),
        ],
        &rows,
    );
    assert_eq!(
        text,
        "NAME               OWN  LAST\n\
         ├─ web         4.0 KiB  x\n\
         a-long-name  512.0 MiB\n"
    );
}

#[test]
fn long_values_are_not_wrapped() {
    let long = "/".repeat(500);
    let text = table(&[Column::Text("PATH")], &[vec![long.clone()]]);
    assert_eq!(text, format!("PATH\n{long}\n"));
}

#[test]
fn fields_are_aligned() {
    assert_eq!(
        fields(&[("a", "1".into()), ("long", "2".into())]),
        "a     1\nlong  2\n"
    );
}

#[test]
fn sizes_and_times_have_human_units() {
    assert_eq!(
        (size(0), size(4096), size(512 << 20)),
        ("0 B".into(), "4.0 KiB".into(), "512.0 MiB".into())
    );
    assert_eq!(frames_size(256), "1.0 MiB");
    assert_eq!(
        (time_us(0.0), time_us(812.4)),
        ("0 µs".into(), "812 µs".into())
    );
    assert_eq!(
        (time_us(1_240.0), time_us(3_410_000.0)),
        ("1.24 ms".into(), "3.41 s".into())
    );
    assert_eq!(lasting(Duration::from_millis(900)), "0s");
    assert_eq!(lasting(Duration::from_secs(3 * 60 + 12)), "3m 12s");
    assert_eq!(lasting(Duration::from_secs(2 * 3600 + 5 * 60 + 7)), "2h 5m");
    assert_eq!(moment(1_795_354_839_000_000_000), "2026-11-22 13:40:39");
    // The largest moment that a snapshot can name is still only a moment.
    assert!(moment(u64::MAX).starts_with("2554-"));
}
