//! Finds the simple commands in a command line, with a small part of a shell's grammar.

/// Words of each simple command in a line: quotes are taken off, assignments and redirections are
/// left out, variables stay as they are. Commands in `$(...)` count, too.
pub fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let mut reader = Reader::default();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\n') | None => reader.end_word(),
                Some(escaped) => reader.push(escaped),
            },
            '\'' => {
                reader.word.get_or_insert_default();
                chars
                    .by_ref()
                    .take_while(|c| *c != '\'')
                    .for_each(|c| reader.push(c));
            }
            '"' => {
                reader.word.get_or_insert_default();
                let quoted: String = chars.by_ref().take_while(|c| *c != '"').collect();
                reader.take_quoted(&quoted);
            }
            '$' if chars.peek() == Some(&'(') => reader.end_command(),
            '>' | '<' => {
                let number = reader
                    .word
                    .as_ref()
                    .is_some_and(|word| word.chars().all(|c| c.is_ascii_digit()));
                if number {
                    reader.word = None;
                }
                reader.end_word();
                while chars
                    .next_if(|c| matches!(c, '>' | '&' | '<' | '('))
                    .is_some()
                {}
                reader.is_target = true;
            }
            '#' if reader.word.is_none() => {
                chars.by_ref().find(|c| *c == '\n');
                reader.end_command();
            }
            '|' | '&' | ';' | '\n' | '(' | ')' | '{' | '}' => reader.end_command(),
            c if c.is_whitespace() => reader.end_word(),
            c => reader.push(c),
        }
    }
    reader.end_command();
    reader.commands
}

#[derive(Default)]
struct Reader {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    word: Option<String>,
    /// The next word is where a redirection leads.
    is_target: bool,
}

impl Reader {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn take_quoted(&mut self, quoted: &str) {
        if let Some((before, command)) = quoted.split_once("$(") {
            self.commands.extend(simple_commands(command));
            self.word.get_or_insert_default().push_str(before);
        } else {
            self.word.get_or_insert_default().push_str(quoted);
        }
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if std::mem::take(&mut self.is_target) {
            return;
        }
        let is_assignment = self.words.is_empty()
            && word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
            });
        if !is_assignment {
            self.words.push(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        self.is_target = false;
        let mut words = std::mem::take(&mut self.words);
        // Programs that run another one.
        loop {
            let skip = match words.first().map(String::as_str) {
                Some("sudo" | "time" | "!" | "nohup" | "if" | "then" | "do" | "while" | "env") => 1,
                Some("ssh") => 2,
                _ => break,
            };
            words.drain(..skip.min(words.len()));
        }
        if !words.is_empty() {
            self.commands.push(words);
        }
    }
}

#[test]
fn commands_are_found_wherever_a_line_has_them() {
    let found = |line: &str| -> Vec<String> {
        simple_commands(line)
            .iter()
            .map(|words| words.join(" "))
            .collect()
    };
    assert_eq!(
        found("nvvmm send a | ssh other nvvmm receive"),
        ["nvvmm send a", "nvvmm receive"]
    );
    assert_eq!(found("A=b nvvmm ps >x 2>&1 &"), ["nvvmm ps"]);
    assert_eq!(
        found("nvvmm run --cmdline 'a b' \\\n  --detach # why"),
        ["nvvmm run --cmdline a b --detach"]
    );
    assert_eq!(
        found("eval \"$(scripts/x.sh --print)\""),
        ["scripts/x.sh --print", "eval "]
    );
    assert_eq!(
        found("openssl rand -hex 32 > key; nvvmm ps"),
        ["openssl rand -hex 32", "nvvmm ps"]
    );
}
