//! Compares the output that a document shows with the real one.
//!
//! Numbers with their units are all the same, so are runs of spaces. A line `...` in a document
//! stands for any number of lines, and `...` in a line for any text.

const ELLIPSIS: &str = "...";
const UNITS: [&str; 15] = [
    "ns", "µs", "us", "ms", "s", "m", "h", "B", "KiB", "MiB", "GiB", "TiB", "%", "days", "day",
];
/// Prompts of Linux guests' shells without a command.
const EMPTY_PROMPTS: [&str; 2] = ["/ #", "root@debian:~#"];

/// Compares the real output with the shown one.
pub fn is_alike(shown: &[String], real: &[String]) -> bool {
    are_alike(&stable(shown), &stable(real))
}

/// True if a document leaves out a part of the output.
pub fn is_shortened(shown: &[String]) -> bool {
    shown.iter().any(|line| line.contains(ELLIPSIS))
}

fn are_alike(shown: &[String], real: &[String]) -> bool {
    match (shown.split_first(), real.split_first()) {
        (None, _) => real.is_empty(),
        (Some((first, rest)), _) if first == ELLIPSIS => {
            (0..=real.len()).any(|skipped| are_alike(rest, &real[skipped..]))
        }
        (Some(_), None) => false,
        (Some((first, rest)), Some((real, more))) => {
            line_is_alike(first, real) && are_alike(rest, more)
        }
    }
}

fn line_is_alike(shown: &str, real: &str) -> bool {
    let mut parts = shown.split(ELLIPSIS);
    let first = parts.next().unwrap_or_default();
    let Some(mut left) = real.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return left.is_empty();
    };
    for part in parts {
        let Some((_, after)) = left.split_once(part) else {
            return false;
        };
        left = after;
    }
    left.ends_with(last)
}

/// Lines without numbers, and with single spaces.
fn stable(lines: &[String]) -> Vec<String> {
    let lines = lines.iter().map(|line| without_numbers(line));
    let mut lines: Vec<String> = lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !EMPTY_PROMPTS.contains(&line.as_str()))
        .collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    let mut left = line;
    while let Some(at) = left.find(|c: char| c.is_ascii_digit()) {
        text.push_str(&left[..at]);
        text.push('N');
        let number = &left[at..];
        let end = number
            .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ',' | ':'))
            .unwrap_or(number.len());
        let end = number[..end].trim_end_matches(['.', ',', ':']).len();
        left = &number[end..];
        let after = left.strip_prefix(' ').unwrap_or(left);
        let word = after
            .find(|c: char| !c.is_alphabetic() && c != '%')
            .unwrap_or(after.len());
        if UNITS.contains(&&after[..word]) {
            left = &after[word..];
        }
    }
    text + left
}

#[test]
fn numbers_and_spaces_do_not_matter_and_words_do() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let alike = |shown: &str, real: &str| is_alike(&lines(shown), &lines(real));
    assert!(alike("web runs (pid 1)", "web runs (pid 4711)"));
    assert!(alike(
        "paused for 30.33 ms, 0 B copied",
        "paused for 870 µs, 2.0 KiB copied"
    ));
    assert!(alike("NAME   PID\nweb      1", "NAME PID\nweb 17"));
    assert!(!alike("web runs", "web stops"));
    assert!(!alike("a", "a\nb") && !alike("a\nb", "a"));
    assert!(alike("a\n...\nd", "a\nb\nc\nd") && alike("...", ""));
    assert!(alike("identity ... of web", "identity 0f3e of web"));
    assert!(!alike("identity ... of web", "identity 0f3e of"));
}
