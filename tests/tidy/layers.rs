//! Modules of a crate are in layers: one names only modules of layers below its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::exceptions::Violation;
use crate::modules::Imports;
use crate::tree::Tree;

/// Layers of the modules in one directory.
struct Layers {
    /// A crate's `src`, or the directory of a module in it.
    directory: &'static str,
    /// From the top to the bottom. The modules of one line do not name each other.
    from_top: &'static [&'static str],
}

/// The order of all modules. Each module of a directory is in its table, and no other name is.
#[rustfmt::skip]
const LAYERS: &[Layers] = &[
    Layers {
        directory: "vmm/src",
        from_top: &[
            "vm",
            "agent inspect",
            "control",
            "ring",
            "process",
            "checkpoint",
            "cow",
            "machine",
            "arch window",
            "kvm",
            "memory",
            "sys",
            "stats",
            "error spec threads",
            "disk net",
        ],
    },
    Layers {
        directory: "snapshot/src",
        from_top: &[
            "moving",
            "diff disk scrub reader",
            "holder",
            "frame_map",
            "pool",
            "cleaning",
            "recovery",
            "dead_heads",
            "catalog_lock",
            "cleaner_lock",
            "handle",
            "catalog",
            "refs",
            "tree",
            "head_log",
            "chunk_digests store",
            "stream",
            "layout lock_times lock_wait waiting_chunks",
            "file_lock name random region",
            "error",
            "overlay",
            "chunk_map identity lock_holder",
            "clock durability fault number other_process wording",
        ],
    },
    Layers {
        directory: "snapshot/remote/src",
        from_top: &[
            "arriving",
            "fetching",
            "fuzzing gc listing pull push verify",
            "touches uploads",
            "known",
            "store",
            "piece",
            "layout",
            "keys",
            "boxes objects url",
            "error",
        ],
    },
    Layers {
        directory: "devices/src",
        from_top: &[
            "power serial virtio",
            "console",
            "bus host_socket identity",
            "irq lifecycle lock sys",
        ],
    },
    Layers {
        directory: "guest/process/src",
        from_top: &[
            "restart",
            "capture",
            "freeze pages",
            "image",
            "observe special",
            "inject",
            "error sys",
            "arch",
        ],
    },
    Layers {
        directory: "guest/process/src/restart",
        from_top: &[
            "threads",
            "attached barriers credentials filters process timers",
            "content memory",
            "descriptors overlay placing poll_sets sessions socket_pairs sockets",
            "makers",
            "stubs",
            "ended reserve",
            "pin",
            "advice files inherited",
            "held terminals",
            "fetch pipes segments",
            "blank check",
            "groups",
            "numbers options paths workspace",
        ],
    },
    Layers {
        directory: "guest/agent/src",
        from_top: &[
            "serve",
            "process",
            "files program",
            "attached link",
            "first_process notice stream",
            "connections",
            "sys",
        ],
    },
];

/// Imports that do not point down, counted for each pair of modules, and gaps of the tables.
pub fn check(tree: &Tree) -> Vec<Violation> {
    LAYERS
        .iter()
        .flat_map(|layers| check_one(tree, layers))
        .collect()
}

fn check_one(tree: &Tree, layers: &Layers) -> Vec<Violation> {
    let Layers {
        directory,
        from_top,
    } = layers;
    let imports = Imports::of(tree, directory);
    let mut depths = BTreeMap::new();
    for (depth, layer) in from_top.iter().enumerate() {
        for module in layer.split_whitespace() {
            let again = depths.insert(module.to_string(), depth);
            assert!(
                again.is_none(),
                "{module} is twice in the layers of {directory}"
            );
        }
    }
    let mut found = Vec::new();
    for module in imports
        .modules
        .iter()
        .filter(|module| !depths.contains_key(*module))
    {
        found.push(gap(
            directory,
            module,
            "has no layer: add it to LAYERS in tests/tidy/layers.rs",
        ));
    }
    for module in depths
        .keys()
        .filter(|module| !imports.modules.contains(*module))
    {
        found.push(gap(
            directory,
            module,
            "is no module any more: remove it from LAYERS",
        ));
    }
    for ((from, to), places) in &imports.edges {
        let (Some(above), Some(below)) = (depths.get(from), depths.get(to)) else {
            continue;
        };
        if above >= below {
            found.push(Violation {
                key: format!("{directory} {from} -> {to}"),
                amount: places.len(),
                message: format!(
                    "{directory}: {from} names {to}, which is not below it: {places:?}"
                ),
            });
        }
    }
    found
}

fn gap(directory: &str, module: &str, why: &str) -> Violation {
    let key = format!("{directory} {module}");
    Violation {
        message: format!("{key} {why}"),
        key,
        amount: 1,
    }
}

/// All imports among the modules of each table, a line for each module.
pub fn describe(tree: &Tree) -> String {
    let mut text = String::new();
    for Layers { directory, .. } in LAYERS {
        let imports = Imports::of(tree, directory);
        let _ = writeln!(text, "{directory}");
        for module in &imports.modules {
            let _ = write!(text, "  {module} ->");
            for ((_, to), places) in imports.edges.iter().filter(|((from, _), _)| from == module) {
                let _ = write!(text, " {to} ({})", places.len());
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Layers, check_one};
    use crate::tree::Tree;

    const ORDER: Layers = Layers {
        directory: "x/src",
        from_top: &["a", "b c", "d"],
    };

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        check_one(&Tree::of(files), &ORDER)
            .into_iter()
            .map(|violation| violation.key)
            .collect()
    }

    #[test]
    fn imports_that_point_down_pass() {
        let files = [
            ("x/src/a.rs", "use crate::{b, c, d};"),
            ("x/src/b.rs", "use crate::d;"),
            ("x/src/c.rs", ""),
            ("x/src/d.rs", ""),
        ];
        assert_eq!(found(&files), Vec::<String>::new());
    }

    #[test]
    fn imports_that_point_up_or_aside_are_found() {
        let files = [
            ("x/src/a.rs", "use crate::b;"),
            ("x/src/b.rs", "use crate::c;"),
            ("x/src/c.rs", "fn f() { crate::a::g(); }"),
            ("x/src/d.rs", ""),
        ];
        assert_eq!(found(&files), ["x/src b -> c", "x/src c -> a"]);
    }

    #[test]
    fn the_table_has_each_module_and_no_other() {
        let files = [
            ("x/src/a.rs", ""),
            ("x/src/b.rs", ""),
            ("x/src/c/mod.rs", ""),
            ("x/src/e.rs", ""),
        ];
        assert_eq!(found(&files), ["x/src e", "x/src d"]);
    }
}
