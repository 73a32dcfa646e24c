use super::*;

fn all_commands(command: &clap::Command) -> Vec<clap::Command> {
    let below = command.get_subcommands().flat_map(all_commands);
    std::iter::once(command.clone()).chain(below).collect()
}

fn help_of(command: &clap::Command, width: usize) -> String {
    let command = command.clone().term_width(width);
    fitted(command, width).render_long_help().to_string()
}

#[test]
fn no_help_is_wider_than_its_terminal() {
    for width in [50, 60, 80, 110] {
        for command in all_commands(&Arguments::command()) {
            let help = help_of(&command, width);
            for line in help.lines() {
                let long = line.chars().count() > width;
                // A word that is longer than a line cannot be broken.
                let one_word = line.split_whitespace().count() <= 2;
                assert!(
                    !long || one_word,
                    "{} at {width}: {line}",
                    command.get_name()
                );
            }
        }
    }
}

/// The fault: lines that were broken by hand, broken once more by the terminal's width, so that
/// every other line has a word or two.
#[test]
fn help_is_broken_once() {
    for name in ["export", "scrub", "mount", "bench", "snapshot"] {
        let root = Arguments::command();
        let command = all_commands(&root)
            .into_iter()
            .find(|c| c.get_name() == name);
        let help = help_of(&command.unwrap(), 70);
        let below = &help[help.find("-h, --help").unwrap()..];
        let lines: Vec<&str> = below.lines().skip(2).collect();
        for three in lines.windows(3) {
            let is_short = |line: &str| !line.trim().is_empty() && line.len() < 30;
            let goes_on = three.iter().all(|line| !line.trim().is_empty());
            let indents = three
                .iter()
                .map(|line| line.len() - line.trim_start().len());
            let is_one_block = indents.clone().min() == indents.max();
            assert!(
                !(goes_on && is_one_block && is_short(three[1]) && three[0].len() > 55),
                "{name}: {three:?}"
            );
        }
    }
}

#[test]
fn a_text_is_read_as_blocks() {
    let text = "One sentence\nover two lines.\n\nExamples:\n  nvvmm run --kernel a \\\n      \
                --name b\n      Runs it.\n  memory   guest RAM,\n           with holes\n";
    let expected = [
        Block::Paragraph("One sentence over two lines.".into()),
        Block::Gap,
        Block::Heading("Examples:".into()),
        Block::Command {
            line: "nvvmm run --kernel a --name b".into(),
            below: vec!["Runs it.".into()],
        },
        Block::Meaning {
            term: "memory".into(),
            meaning: "guest RAM, with holes".into(),
            column: 11,
        },
    ];
    assert_eq!(blocks(text), expected);
    let narrow: String = expected.iter().map(|block| block.text(24)).collect();
    assert_eq!(
        narrow,
        "One sentence over two\nlines.\n\nExamples:\n  nvvmm run --kernel a \\\n      \
         --name b\n      Runs it.\n  memory   guest RAM,\n           with holes\n"
    );
}

#[test]
fn a_command_that_is_broken_can_still_be_typed() {
    let line = "nvvmm snapshot web before-upgrade --durability host --verify";
    let block = Block::Command {
        line: line.into(),
        below: Vec::new(),
    };
    let broken = block.text(40);
    assert!(broken.lines().all(|line| line.len() <= 40), "{broken}");
    let typed = broken.replace("\\\n", " ");
    assert_eq!(typed.split_whitespace().collect::<Vec<_>>().join(" "), line);
}
