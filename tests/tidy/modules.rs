//! References among the modules of a crate.

use std::collections::{BTreeMap, BTreeSet};

use crate::rust::{self, is_name};
use crate::tree::{Kind, Source, Tree};

/// Path of a module from its crate's root: empty for the root itself.
pub type ModulePath = Vec<String>;

/// References among the modules that are directly in one module.
#[derive(Debug, Default)]
pub struct Imports {
    /// The modules.
    pub modules: BTreeSet<String>,
    /// Places where the first module names the second, as `file:line`.
    pub edges: BTreeMap<(String, String), Vec<String>>,
}

/// A file of a crate, without its tests.
struct ModuleFile<'a> {
    source: &'a Source,
    path: ModulePath,
    code: String,
}

impl Imports {
    /// References among the modules in `directory`: a crate's `src` or the directory of a module
    /// in it. Modules and items for tests only do not count.
    pub fn of(tree: &Tree, directory: &str) -> Self {
        let (source, root) = split(directory);
        let files = product_files(tree, &source);
        let mut imports = Self::default();
        let inside =
            |file: &&ModuleFile| file.path.starts_with(&root) && file.path.len() > root.len();
        imports.modules = files
            .iter()
            .filter(inside)
            .map(|f| f.path[root.len()].clone())
            .collect();
        let exports: BTreeMap<String, String> = files
            .iter()
            .filter(|file| file.path == root)
            .flat_map(|file| exports(&file.code, &imports.modules))
            .collect();
        for file in files.iter().filter(inside) {
            let from = &file.path[root.len()];
            for (line, path) in references(&file.code, &file.path) {
                let Some(name) = path.strip_prefix(root.as_slice()).and_then(<[_]>::first) else {
                    continue;
                };
                let to = if imports.modules.contains(name) {
                    Some(name)
                } else {
                    exports.get(name)
                };
                if let Some(to) = to.filter(|to| *to != from) {
                    let place = format!("{}:{line}", file.source.path);
                    imports
                        .edges
                        .entry((from.clone(), to.clone()))
                        .or_default()
                        .push(place);
                }
            }
        }
        imports
    }
}

/// The `src` directory of a module's directory, and the module's path from there.
fn split(directory: &str) -> (String, ModulePath) {
    let parts: Vec<&str> = directory.split('/').collect();
    let source = parts
        .iter()
        .position(|part| *part == "src")
        .expect("a directory below src");
    let path = parts[source + 1..]
        .iter()
        .map(ToString::to_string)
        .collect();
    (parts[..=source].join("/"), path)
}

/// Files below `source` that are no tests, with their code.
fn product_files<'a>(tree: &'a Tree, source: &str) -> Vec<ModuleFile<'a>> {
    let mut files = Vec::new();
    let mut tests: Vec<ModulePath> = Vec::new();
    for file in tree.of_kind(Kind::Rust) {
        let Some(name) = file
            .path
            .strip_prefix(source)
            .and_then(|rest| rest.strip_prefix('/'))
        else {
            continue;
        };
        let (code, for_tests) = rust::without_tests(&rust::scan(&file.text).code);
        let path = module_path(name);
        for name in for_tests {
            // `mod name;` is below this module; with `#[path]`, its file is beside this one.
            let beside = path.split_last().map_or(&[][..], |(_, above)| above);
            tests.push([path.as_slice(), std::slice::from_ref(&name)].concat());
            tests.push([beside, &[name]].concat());
        }
        files.push(ModuleFile {
            source: file,
            path,
            code,
        });
    }
    files.retain(|file| !tests.iter().any(|test| file.path.starts_with(test)));
    files.retain(|file| file.path.first().is_none_or(|first| first != "bin"));
    files
}

/// Path of the module in a file, whose name is relative to `src`.
fn module_path(name: &str) -> ModulePath {
    let name = name.trim_end_matches(".rs");
    let mut path: ModulePath = name.split('/').map(ToString::to_string).collect();
    let root = path.len() == 1 && (name == "lib" || name == "main");
    if root || path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    path
}

/// Items that a module's file exports from the modules below it: item to module.
fn exports(code: &str, modules: &BTreeSet<String>) -> Vec<(String, String)> {
    let uses = code.match_indices("use ").filter(|(at, _)| {
        code[..*at].trim_end().ends_with(")") || code[..*at].trim_end().ends_with("pub")
    });
    uses.flat_map(|(at, _)| use_tree(&code[at + 4..], &[]).0)
        .filter_map(|path| {
            let path: &[String] = path
                .strip_prefix(&["self".to_string()][..])
                .unwrap_or(&path);
            let (first, last) = (path.first()?, path.last()?);
            modules
                .contains(first)
                .then(|| (last.clone(), first.clone()))
        })
        .collect()
}

/// Paths in the code that begin with `crate` or `super`, made absolute, with their lines.
fn references(code: &str, module: &[String]) -> Vec<(usize, ModulePath)> {
    let mut found = Vec::new();
    for word in ["crate::", "super::"] {
        for (at, _) in code.match_indices(word) {
            let before = code[..at].trim_end();
            // `super::super::x` is found once, at its beginning.
            if code[..at].ends_with(is_name) || before.ends_with("::") {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let here = [module, &inline_modules(&code[..at])].concat();
            for path in use_tree(&code[at..], &[]).0 {
                found.push((line, absolute(&path, &here)));
            }
        }
    }
    found
}

/// Names of the modules with a body (`mod name { .. }`) that are open at the end of `code`.
fn inline_modules(code: &str) -> ModulePath {
    let mut open: Vec<Option<String>> = Vec::new();
    let mut item = String::new();
    for c in code.chars() {
        match c {
            '{' => {
                let words: Vec<&str> = item.split_whitespace().collect();
                let name = match words.as_slice() {
                    [.., "mod", name] => Some((*name).to_string()),
                    _ => None,
                };
                open.push(name);
                item.clear();
            }
            '}' => {
                open.pop();
                item.clear();
            }
            ';' => item.clear(),
            _ => item.push(c),
        }
    }
    open.into_iter().flatten().collect()
}

/// A path seen from the crate's root.
fn absolute(path: &[String], here: &[String]) -> ModulePath {
    let mut absolute = here.to_vec();
    for part in path {
        match part.as_str() {
            "crate" => absolute.clear(),
            "super" => drop(absolute.pop()),
            "self" => {}
            _ => absolute.push(part.clone()),
        }
    }
    absolute
}

/// All paths of a tree of `use` (`a::{b, c::d}`), or the one path of an expression, and the text
/// that follows.
fn use_tree<'a>(text: &'a str, above: &[String]) -> (Vec<ModulePath>, &'a str) {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        let mut paths = Vec::new();
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if rest.is_empty() || rest.starts_with('}') {
                return (paths, rest.strip_prefix('}').unwrap_or(rest));
            }
            let (more, after) = use_tree(rest, above);
            paths.extend(more);
            // Passes `as name` and what cannot be read.
            rest = &after[after.find([',', '}']).unwrap_or(after.len())..];
        }
    }
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    if end == 0 {
        let paths = if above.is_empty() {
            vec![]
        } else {
            vec![above.to_vec()]
        };
        return (paths, text);
    }
    let path = [above, &[text[..end].to_string()]].concat();
    match text[end..].strip_prefix("::") {
        Some(rest) => use_tree(rest, &path),
        None => (vec![path], &text[end..]),
    }
}

#[cfg(test)]
mod tests {
    use super::Imports;
    use crate::tree::Tree;

    fn edges(files: &[(&str, &str)], directory: &str) -> Vec<String> {
        let imports = Imports::of(&Tree::of(files), directory);
        imports
            .edges
            .keys()
            .map(|(from, to)| format!("{from} -> {to}"))
            .collect()
    }

    #[test]
    fn uses_and_paths_in_expressions_are_found() {
        let files = [
            (
                "x/src/lib.rs",
                "mod a; mod b; mod c; mod d; mod e; pub use e::{f, G as H};",
            ),
            (
                "x/src/a.rs",
                "use crate::{b::{self, c}, d};\nfn f() { super::c::g(); crate::f!(); }",
            ),
            ("x/src/b/mod.rs", "mod inner;"),
            (
                "x/src/b/inner.rs",
                "mod m { use super::super::super::{super::z, c}; }\nuse super::y;",
            ),
            ("x/src/c.rs", "// crate::a\nconst A: &str = \"crate::a\";"),
            ("x/src/d.rs", ""),
            ("x/src/e.rs", ""),
        ];
        let expected = ["a -> b", "a -> c", "a -> d", "a -> e", "b -> c"];
        assert_eq!(edges(&files, "x/src"), expected);
    }

    #[test]
    fn tests_do_not_count() {
        let files = [
            ("x/src/lib.rs", "mod a; mod b; #[cfg(test)] mod c;"),
            (
                "x/src/a.rs",
                "#[cfg(test)]\nmod t { use crate::b; }\n#[cfg(test)]\nmod a_test;\n",
            ),
            ("x/src/a_test.rs", "use crate::b;"),
            ("x/src/b.rs", ""),
            ("x/src/c/deep.rs", "use crate::b;"),
        ];
        assert_eq!(edges(&files, "x/src"), Vec::<String>::new());
    }

    #[test]
    fn modules_in_a_module_are_seen_by_themselves() {
        let files = [
            ("x/src/a/mod.rs", "mod b; mod c;"),
            ("x/src/a/b.rs", "use crate::a::c::d; use crate::e::f;"),
            ("x/src/a/c/mod.rs", "use super::b::g;"),
        ];
        assert_eq!(edges(&files, "x/src/a"), ["b -> c", "c -> b"]);
    }
}
