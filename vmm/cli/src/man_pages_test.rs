use super::*;

fn page_of(name: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path()).unwrap();
    fs::read_to_string(dir.path().join(format!("{name}.1"))).unwrap()
}

fn section_of<'p>(page: &'p str, name: &str) -> &'p str {
    let begin = page.find(&format!(".SH {name}\n"));
    let section = &page[begin.unwrap_or_else(|| panic!("no section {name}: {page}"))..];
    let end = section[4..]
        .find(".SH ")
        .map_or(section.len(), |end| end + 4);
    &section[..end]
}

#[test]
fn a_synopsis_has_values_and_what_must_be_given_first() {
    let page = page_of("nvvmm-run");
    let synopsis = section_of(&page, "SYNOPSIS")
        .replace("\\fB", "")
        .replace("\\fI", "");
    let synopsis = synopsis
        .replace("\\fR", "")
        .replace("\\-", "-")
        .replace("\\ ", " ");
    let lines: Vec<&str> = synopsis.lines().skip(2).collect();
    assert_eq!(lines[..2], ["nvvmm run", "--kernel FILE"]);
    for line in [
        "[--memory SIZE]",
        "[--disk DISK[,ro][,OPTION...]]...",
        "[--detach]",
    ] {
        assert!(lines.contains(&line), "{line}: {lines:?}");
    }
    let page = page_of("nvvmm-snapshot");
    let synopsis = section_of(&page, "SYNOPSIS");
    assert!(synopsis.contains("process|host|power"), "{synopsis}");
    assert!(
        synopsis.ends_with("\\fIVM\\fR\n[\\fINAME\\fR]\n"),
        "{synopsis}"
    );
}

#[test]
fn operands_are_in_a_section_of_their_own() {
    for name in [
        "nvvmm-snapshot",
        "nvvmm-pool-create",
        "nvvmm-cp",
        "nvvmm-rm",
    ] {
        let page = page_of(name);
        let options = match page.contains(".SH OPTIONS\n") {
            true => section_of(&page, "OPTIONS"),
            false => "",
        };
        let operands = section_of(&page, "ARGUMENTS");
        let heads = |text: &str| text.matches(".TP\n").count();
        assert!(heads(operands) > 0, "{name}: {operands}");
        for head in options.split(".TP\n").skip(1) {
            assert!(head.starts_with("\\fB"), "{name}: {head}");
        }
    }
}

#[test]
fn what_stands_behind_the_options_is_in_sections() {
    let page = page_of("nvvmm");
    for (section, words) in [
        ("ENVIRONMENT", "which 'run' creates if needed"),
        ("EXIT STATUS", "the command succeeded"),
        ("COMMANDS", "nvvmm\\-run(1)"),
    ] {
        let found = section_of(&page, section);
        assert!(found.contains(words), "{section}: {found}");
    }
    let page = page_of("nvvmm-pool-mount");
    assert!(section_of(&page, "EXAMPLES").contains("hexdump"), "{page}");
    let described = section_of(&page, "DESCRIPTION");
    assert!(
        described.contains(".TP\n\\fBstate.json\\fR\n"),
        "{described}"
    );
    assert!(!page.contains(".SH EXTRA"), "{page}");
}

#[test]
fn text_is_no_request_of_roff() {
    assert_eq!(escaped(".x"), "\\&.x");
    assert_eq!(escaped("a\\b --c"), "a\\eb \\-\\-c");
}
