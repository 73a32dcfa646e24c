use super::*;

#[test]
fn lines_come_now_and_then() {
    let start = Instant::now();
    let mut lines = Lines::new("scrub", Vec::new(), start);
    for second in 0..=11 {
        lines.show(
            second << 20,
            Some(20 << 20),
            start + Duration::from_secs(second),
        );
    }
    lines.show(0, Some(0), start + Duration::from_secs(60));
    lines.show(3 << 20, None, start + Duration::from_secs(70));
    assert_eq!(
        String::from_utf8(lines.out).unwrap(),
        "scrub: 5.0 MiB of 20.0 MiB, 25%\nscrub: 10.0 MiB of 20.0 MiB, 50%\nscrub: 0 B of 0 B, \
         100%\nscrub: 3.0 MiB\n"
    );
}
