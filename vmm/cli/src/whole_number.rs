//! Whole numbers as values of arguments: counts, levels, process numbers.

use std::ops::RangeInclusive;

/// A parser of whole numbers in a range, for `value_parser`.
pub fn between<T>(
    range: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: TryFrom<u32>,
{
    move |text| {
        let number = parse(text, &range)?;
        // The range is one of T.
        T::try_from(number).map_err(|_| format!("give a number {}", range_text(&range)))
    }
}

/// The number that `text` is, if it is in the range.
pub fn parse(text: &str, range: &RangeInclusive<u32>) -> Result<u32, String> {
    let asked = || format!("give a number {}", range_text(range));
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("this is no whole number: {}", asked()));
    }
    if is_negative {
        return Err(format!("{text} is too small: {}", asked()));
    }
    // A number that fits no u32 is beyond any range.
    match digits.parse().unwrap_or(u32::MAX) {
        number if number < *range.start() => Err(format!("{text} is too small: {}", asked())),
        number if number > *range.end() => Err(format!("{text} is too large: {}", asked())),
        number => Ok(number),
    }
}

fn range_text(range: &RangeInclusive<u32>) -> String {
    match *range.end() {
        u32::MAX => format!("from {} on", range.start()),
        end if end == i32::MAX as u32 => format!("from {} on", range.start()),
        end => format!("from {} to {end}", range.start()),
    }
}

#[cfg(test)]
#[path = "whole_number_test.rs"]
mod whole_number_test;
