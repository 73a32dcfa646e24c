//! Each dependency in each `Cargo.toml` is named in the sources of its package.
//!
//! For a package, `name::` or `use name` in its code counts, derives included
//! (`#[derive(serde::Serialize)]`). For the workspace's own table, a member that takes the entry
//! counts.

use std::collections::BTreeSet;

use crate::exceptions::Violation;
use crate::rust::{self, is_name};
use crate::tree::{Kind, Source, Tree};

/// Dependencies that no source names, and why they are there: manifest, dependency, reason.
/// For instance, one that only turns on a feature for another crate.
const NOT_NAMED: &[(&str, &str, &str)] = &[(
    "snapshot/remote/Cargo.toml",
    "reqwest",
    "object_store needs its part of TLS, and does not turn it on",
)];

/// Dependencies that nothing uses.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for manifest in tree.of_kind(Kind::Toml).filter(|file| is_manifest(file)) {
        let code = package_code(tree, manifest);
        for dependency in dependencies(&manifest.text) {
            let used = match dependency.workspace {
                true => taken_from_workspace(tree, &dependency.name),
                false => is_named(&code, &dependency.name.replace('-', "_")),
            };
            let excused = NOT_NAMED
                .iter()
                .any(|(path, name, _)| *path == manifest.path && *name == dependency.name);
            if used == excused {
                let why = if used {
                    "is named: not NOT_NAMED any more"
                } else {
                    "is not used"
                };
                found.push(Violation {
                    key: format!("{} {}", manifest.path, dependency.name),
                    amount: 1,
                    message: format!("{}: {} {why}", manifest.path, dependency.name),
                });
            }
        }
    }
    found
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dependency {
    name: String,
    /// True for an entry of `[workspace.dependencies]`.
    workspace: bool,
}

fn is_manifest(file: &Source) -> bool {
    file.path.rsplit('/').next() == Some("Cargo.toml")
}

/// Entries of all tables of dependencies of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<Dependency> {
    let mut found = BTreeSet::new();
    let mut table = String::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_string();
            // A table for one dependency: [dependencies.name].
            if let Some((above, name)) = table.rsplit_once('.').filter(|t| is_table(t.0)) {
                found.insert(Dependency {
                    name: name.into(),
                    workspace: is_workspace(above),
                });
            }
        } else if is_table(&table) && line.contains('=') && !line.starts_with('#') {
            let name: String = line
                .chars()
                .take_while(|c| is_name(*c) || *c == '-')
                .collect();
            if !name.is_empty() {
                found.insert(Dependency {
                    name,
                    workspace: is_workspace(&table),
                });
            }
        }
    }
    found
}

fn is_table(table: &str) -> bool {
    table.rsplit('.').next().is_some_and(|last| {
        ["dependencies", "dev-dependencies", "build-dependencies"].contains(&last)
    })
}

fn is_workspace(table: &str) -> bool {
    table.starts_with("workspace.")
}

/// The code of the package of a manifest, without that of packages inside it.
fn package_code(tree: &Tree, manifest: &Source) -> String {
    let package = manifest.directory();
    let inner: Vec<&str> = tree
        .of_kind(Kind::Toml)
        .filter(|file| is_manifest(file) && file.path != manifest.path)
        .map(Source::directory)
        .filter(|directory| is_in(directory, package))
        .collect();
    tree.of_kind(Kind::Rust)
        .filter(|file| is_in(&file.path, package))
        .filter(|file| !inner.iter().any(|directory| is_in(&file.path, directory)))
        .map(|file| rust::scan(&file.text).code)
        .collect()
}

fn is_in(path: &str, directory: &str) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with('/'))
}

/// True if the code has `name::`, `use name` or `extern crate name`.
fn is_named(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let whole = !before.ends_with(is_name) && !after.starts_with(is_name);
        // `::name::` with a path before it names a module of another crate.
        let module = before
            .strip_suffix("::")
            .is_some_and(|path| path.ends_with(is_name));
        let imported = ["use", "crate"]
            .iter()
            .any(|word| before.trim_end().ends_with(word));
        whole && !module && (after.starts_with("::") || imported)
    })
}

/// True if a member's manifest has `name.workspace = true` or `name = { workspace = true, .. }`.
fn taken_from_workspace(tree: &Tree, name: &str) -> bool {
    tree.of_kind(Kind::Toml)
        .filter(|file| is_manifest(file))
        .any(|file| {
            file.text
                .lines()
                .filter_map(|line| line.trim().strip_prefix(name))
                .any(|rest| {
                    let rest: String = rest.split_whitespace().collect();
                    rest.starts_with(".workspace=true")
                        || rest.starts_with("={") && rest.contains("workspace=true")
                })
        })
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tree::Tree;

    fn unused(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files))
            .into_iter()
            .map(|violation| violation.key)
            .collect()
    }

    #[test]
    fn a_dependency_that_no_source_names_is_found() {
        let manifest = "[dependencies]\na-b = \"1\"\nc.workspace = true\n\n\
                        [dev-dependencies.d]\nversion = \"1\"\n";
        let files = [
            ("x/Cargo.toml", manifest),
            ("x/src/lib.rs", "// a_b::c\nuse c;\n"),
        ];
        assert_eq!(unused(&files), ["x/Cargo.toml a-b", "x/Cargo.toml d"]);
        let code = "#[derive(a_b::E)] struct F; use c as g; fn h() { d::i(); }";
        assert_eq!(
            unused(&[files[0], ("x/tests/y.rs", code)]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn names_in_other_paths_do_not_count() {
        let manifest = ("Cargo.toml", "[dependencies]\nlibc = \"1\"\n");
        assert_eq!(
            unused(&[manifest, ("src/lib.rs", "nix::libc::read(); my_libc::x();")]).len(),
            1
        );
        assert_eq!(
            unused(&[
                manifest,
                ("inner/Cargo.toml", ""),
                ("inner/a.rs", "libc::x")
            ])
            .len(),
            1
        );
    }

    #[test]
    fn an_entry_of_the_workspace_that_no_member_takes_is_found() {
        let root = (
            "Cargo.toml",
            "[workspace.dependencies]\na = \"1\"\nab = \"1\"\nc = \"1\"\n",
        );
        let member =
            "[dependencies]\nab = { workspace = true, features = [] }\nc.workspace = true\n";
        let code = ("x/lib.rs", "use ab; use c;");
        assert_eq!(
            unused(&[root, ("x/Cargo.toml", member), code]),
            ["Cargo.toml a"]
        );
    }
}
