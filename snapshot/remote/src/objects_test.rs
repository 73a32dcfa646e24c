use super::*;

#[test]
fn a_library_s_words_lose_the_queries_of_urls_and_control_characters() {
    let text =
        "error for url (https://x.net/c?sv=1&sig=SECRET): reset\n  by \"http://y/?a=SECRET\"";
    assert_eq!(
        without_secrets(text),
        "error for url (https://x.net/c?...): reset   by \"http://y/?...\""
    );
    assert_eq!(without_secrets("what? nothing"), "what? nothing");
}
