//! The files that the rules read.

use std::fs;
use std::path::{Path, PathBuf};

/// The kinds of files that have rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rust,
    Markdown,
    Shell,
    Toml,
    Yaml,
    /// Only its name is used: others refer to it.
    Other,
}

/// A file of the repository.
pub struct Source {
    /// Path from the repository's root, with `/` between its parts.
    pub path: String,
    pub kind: Kind,
    /// Empty for [`Kind::Other`].
    pub text: String,
}

impl Source {
    /// Path of the directory that has this file, without a `/` at its end; "" for the root.
    pub fn directory(&self) -> &str {
        self.path
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory)
    }
}

/// All files of the repository, sorted by path.
pub struct Tree {
    pub files: Vec<Source>,
}

/// Directories of generated files.
pub const GENERATED: &[&str] = &["target", "corpus", "artifacts", "coverage"];

/// Documents that a program writes. Rules of size do not hold for them.
pub const WRITTEN_BY_PROGRAMS: &[&str] = &["docs/performance.md"];

/// Hidden directories that are part of the repository.
const HIDDEN: &[&str] = &[".cargo", ".ci", ".github"];

impl Tree {
    /// Reads the repository that this package is in.
    pub fn of_the_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("no parent directory");
        let mut paths = Vec::new();
        walk(root, &mut paths);
        let mut files: Vec<Source> = paths
            .iter()
            .map(|path| {
                let name = path
                    .strip_prefix(root)
                    .unwrap_or(path)
                    .to_string_lossy()
                    .into_owned();
                let bytes = fs::read(path).unwrap_or_else(|error| panic!("{name}: {error}"));
                source(name, String::from_utf8(bytes).unwrap_or_default())
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { files }
    }

    /// A tree for the tests of a rule.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let mut files: Vec<Source> = files
            .iter()
            .map(|(path, text)| source((*path).into(), (*text).into()))
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self { files }
    }

    /// Files of one kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(move |file| file.kind == kind)
    }

    /// The file at `path`, if there is one.
    pub fn get(&self, path: &str) -> Option<&Source> {
        self.files.iter().find(|file| file.path == path)
    }
}

fn source(path: String, text: String) -> Source {
    let kind = kind_of(&path, &text);
    let text = if kind == Kind::Other {
        String::new()
    } else {
        text
    };
    Source { path, kind, text }
}

/// Kind of a file, by its name; a script without an ending is known by its first line.
fn kind_of(path: &str, text: &str) -> Kind {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.') {
        Some((_, "rs")) => Kind::Rust,
        Some((_, "md")) => Kind::Markdown,
        Some((_, "sh")) => Kind::Shell,
        Some((_, "toml")) => Kind::Toml,
        Some((_, "yml" | "yaml")) => Kind::Yaml,
        _ if text.starts_with("#!") && text.lines().next().is_some_and(|l| l.ends_with("sh")) => {
            Kind::Shell
        }
        _ => Kind::Other,
    }
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let entry = entry.expect("directory entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("file type");
        if kind.is_dir() {
            let hidden = name.starts_with('.') && !HIDDEN.contains(&name.as_str());
            if !hidden && !GENERATED.contains(&name.as_str()) {
                walk(&entry.path(), files);
            }
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Tree};

    #[test]
    fn the_repository_has_files_of_each_kind() {
        let tree = Tree::of_the_repository();
        for kind in [
            Kind::Rust,
            Kind::Markdown,
            Kind::Shell,
            Kind::Toml,
            Kind::Yaml,
        ] {
            assert!(tree.of_kind(kind).next().is_some(), "{kind:?}");
        }
        assert!(tree.get("tests/tidy/tree.rs").is_some());
        assert!(
            tree.files
                .iter()
                .all(|file| !file.path.contains("target/debug"))
        );
    }

    #[test]
    fn a_script_without_an_ending_is_known_by_its_first_line() {
        let tree = Tree::of(&[
            (".ci/run", "#!/usr/bin/env bash\n"),
            ("LICENSE", "Apache\n"),
        ]);
        assert_eq!(tree.get(".ci/run").map(|file| file.kind), Some(Kind::Shell));
        assert_eq!(tree.get("LICENSE").map(|file| file.kind), Some(Kind::Other));
    }
}
