use super::*;

#[test]
fn all_messages_begin_alike() {
    for (kind, plain) in [
        (MessageKind::Error, "nvvmm: error: "),
        (MessageKind::Warning, "nvvmm: warning: "),
        (MessageKind::Note, "nvvmm: "),
    ] {
        assert_eq!(prefix(kind, false), plain);
        let coloured = prefix(kind, true);
        let without: String = coloured.replace(kind.colour(), "").replace(COLOUR_END, "");
        assert_eq!(without, plain);
    }
    assert!(prefix(MessageKind::Error, true).contains("\x1b[1;31merror: \x1b[0m"));
}
