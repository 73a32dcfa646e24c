use serde_json::Value;

use super::*;

#[test]
fn json_means_the_same_and_has_nothing_that_a_terminal_obeys() {
    let value = Value::String("\u{9b}2J \x1b \u{202e} \x7f plain \n".to_owned());
    let text = json_text(&value).unwrap();
    assert!(!text.contains(is_obeyed), "{text:?}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
}
