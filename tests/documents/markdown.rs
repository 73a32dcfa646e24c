//! Documents, and the blocks in them that show commands.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Beginning of a line that holds a command.
const PROMPT: &str = "$ ";

/// A Markdown file of the source tree.
#[derive(Debug)]
pub struct Document {
    /// Path from the root of the source tree.
    pub path: String,
    /// Lines, without their ends.
    pub lines: Vec<String>,
}

/// Way in which a block is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marker {
    /// Run with the bare-metal guest on /dev/kvm.
    BareMetal,
    /// Run with the Linux guest, where KVM boots Linux.
    Linux,
    /// Run with an empty home directory, without an installed nvvmm.
    Install,
    /// The beginning of the quickstart: run from an empty directory, without KVM.
    Quickstart,
    /// Not run, for this reason.
    NotRun(String),
    /// Unknown; the whole info string.
    Unknown(String),
}

/// A `console` block.
#[derive(Debug)]
pub struct Block {
    /// Line of the fence, counted from 1.
    pub line: usize,
    /// Marker in its info string.
    pub marker: Marker,
    /// Commands, in order.
    pub steps: Vec<Step>,
}

/// A command and the output that the document shows.
#[derive(Debug)]
pub struct Step {
    /// Line of the command, counted from 1.
    pub line: usize,
    /// Command, of several lines where they end in a backslash.
    pub command: String,
    /// Output as shown.
    pub output: Vec<String>,
    /// Index in [`Document::lines`] of the first line of output.
    pub output_at: usize,
}

/// Directory of the source tree.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("tests is a directory in the tree")
        .to_owned()
}

impl Document {
    /// README.md and its like, docs/, and the READMEs of guests and fuzz targets.
    pub fn all() -> Vec<Self> {
        let mut paths = Vec::new();
        for directory in [
            "",
            "tests/fuzz",
            "guest/agent",
            "guest/bare-metal",
            "guest/linux",
            "guest/process",
        ] {
            paths.extend(markdown_in(&root().join(directory)));
        }
        let mut directories = vec![root().join("docs")];
        while let Some(directory) = directories.pop() {
            paths.extend(markdown_in(&directory));
            let entries = fs::read_dir(directory)
                .unwrap()
                .flatten()
                .map(|entry| entry.path());
            directories.extend(entries.filter(|path| path.is_dir()));
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        Self {
            path: path.strip_prefix(root()).unwrap().display().to_string(),
            lines: text.lines().map(str::to_owned).collect(),
        }
    }

    /// Replaces lines, given by index, and writes the file; edits are in ascending order. In the
    /// nested harness, which sees the source tree as it was, it goes below `$NVVMM_RESULTS`.
    pub fn write(&self, edits: &[(std::ops::Range<usize>, Vec<String>)]) {
        let mut lines = self.lines.clone();
        for (range, new) in edits.iter().rev() {
            lines.splice(range.clone(), new.iter().cloned());
        }
        let results = std::env::var_os("NVVMM_RESULTS").map(PathBuf::from);
        let path = results.unwrap_or_else(root).join(&self.path);
        fs::create_dir_all(path.parent().expect("it has a file name")).unwrap();
        fs::write(path, lines.join("\n") + "\n").unwrap();
    }

    /// All `console` blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut lines = self.lines.iter().enumerate();
        while let Some((at, line)) = lines.next() {
            let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) else {
                if line == "```" {
                    skip_block(&mut lines);
                }
                continue;
            };
            let mut block = Block {
                line: at + 1,
                marker: Marker::of(info),
                steps: Vec::new(),
            };
            let is_console = info.split([',', ' ']).next() == Some("console");
            for (at, line) in lines.by_ref().take_while(|(_, line)| *line != "```") {
                block.take(at, line);
            }
            if is_console {
                blocks.push(block);
            }
        }
        blocks
    }

    /// Blocks that are run in one way, in order.
    pub fn blocks_of(&self, marker: &Marker) -> Vec<Block> {
        let mut blocks = self.blocks();
        blocks.retain(|block| block.marker == *marker);
        blocks
    }

    /// Paragraphs outside of fenced blocks, with the number of their first line.
    pub fn paragraphs(&self) -> Vec<(usize, String)> {
        let mut fenced = false;
        let mut paragraphs = Vec::new();
        let mut is_new = true;
        for (at, line) in self.lines.iter().enumerate() {
            let is_fence = line.starts_with("```");
            fenced ^= is_fence;
            if fenced || is_fence || line.is_empty() {
                is_new = true;
            } else if std::mem::take(&mut is_new) {
                paragraphs.push((at + 1, line.clone()));
            } else if let Some((_, text)) = paragraphs.last_mut() {
                text.push('\n');
                text.push_str(line);
            }
        }
        paragraphs
    }
}

fn markdown_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect()
}

fn skip_block<'l>(lines: &mut impl Iterator<Item = (usize, &'l String)>) {
    lines.find(|(_, line)| *line == "```");
}

impl Marker {
    fn of(info: &str) -> Self {
        let (words, reason) = info.split_once(' ').unwrap_or((info, ""));
        let marker = words.split_once(',').map_or("", |(_, marker)| marker);
        match (marker, reason) {
            ("bare-metal", "") => Self::BareMetal,
            ("linux", "") => Self::Linux,
            ("install", "") => Self::Install,
            ("quickstart", "") => Self::Quickstart,
            ("not-run", reason) if !reason.is_empty() => Self::NotRun(reason.to_owned()),
            _ => Self::Unknown(info.to_owned()),
        }
    }
}

impl Block {
    fn take(&mut self, at: usize, line: &str) {
        if let Some(command) = line.strip_prefix(PROMPT) {
            self.steps.push(Step {
                line: at + 1,
                command: command.to_owned(),
                output: Vec::new(),
                output_at: at + 1,
            });
            return;
        }
        // What comes before the first command belongs to nothing.
        let Some(step) = self.steps.last_mut() else {
            return;
        };
        if step.output.is_empty() && step.command.ends_with('\\') {
            step.command.push('\n');
            step.command.push_str(line);
            step.output_at = at + 1;
        } else {
            step.output.push(line.to_owned());
        }
    }
}

#[test]
fn blocks_and_their_commands_are_found() {
    let text = "# x\n```console,linux\n$ a \\\n    b\nout\n$ c\n```\n```\n$ no\n```\n\
                ```console,not-run why not\n$ d\n```";
    let lines = text.lines().map(str::to_owned).collect();
    let document = Document {
        path: "x.md".into(),
        lines,
    };
    let blocks = document.blocks();
    assert_eq!(blocks.len(), 2);
    let [first, second] = &blocks[0].steps[..] else {
        panic!("two commands")
    };
    assert_eq!((&first.command[..], first.line), ("a \\\n    b", 3));
    assert_eq!(
        (&first.output[..], first.output_at),
        (&["out".to_owned()][..], 4)
    );
    assert_eq!((&second.command[..], second.output.len()), ("c", 0));
    assert_eq!(blocks[1].marker, Marker::NotRun("why not".into()));
    assert_eq!(document.paragraphs(), [(1, "# x".to_owned())]);
}
