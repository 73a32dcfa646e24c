//! The rule of links finds what leads nowhere.

use super::check;
use crate::tree::Tree;

const DESIGN: (&str, &str) = (
    "docs/design.md",
    "# Design\n## Guest RAM, again\n```\n# No\n```\n",
);

fn found(path: &str, text: &str) -> Vec<String> {
    let files = [
        DESIGN,
        ("vmm/src/lib.rs", ""),
        ("tests/kvm/main.rs", ""),
        (path, text),
    ];
    check(&Tree::of(&files))
        .into_iter()
        .map(|violation| violation.message)
        .collect()
}

#[test]
fn links_to_files_and_headings_that_exist_pass() {
    let text = "[a](docs/design.md) ![b](vmm/src/lib.rs) [c](docs/design.md#guest-ram-again)\n\
                [d](#here) [e](https://example.org/x.md) [f](docs)\n# Here\n[g]: docs/design.md\n";
    assert_eq!(found("README.md", text), Vec::<String>::new());
    assert_eq!(
        found("docs/a.md", "[a](design.md) [b](../README.md)\n"),
        ["docs/a.md:1: no such file: ../README.md"]
    );
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let text = "[a](docs/absent/)\n[b](docs/design.md#no)\n[c](#none)\n[d]: absent\n[e](../../x)\n";
    let expected = [
        "README.md:1: no such file: docs/absent/",
        "README.md:2: no such heading: docs/design.md#no",
        "README.md:3: no such heading: #none",
        "README.md:5: no such file: ../../x",
        "README.md:4: no such file: absent",
    ];
    assert_eq!(found("README.md", text), expected);
}

#[test]
fn links_in_code_blocks_do_not_count() {
    assert_eq!(
        found("README.md", "```\n[a](absent)\n```\n"),
        Vec::<String>::new()
    );
}

#[test]
fn cited_headings_exist() {
    let good = "//! docs/design.md, \"Guest RAM,\n//! again\", and docs/design.md, \"Design\".\n";
    assert_eq!(found("vmm/src/a.rs", good), Vec::<String>::new());
    let bad = "//! Text.\n//! (docs/design.md, \"Guest\n//! disks\").\n";
    let expected = ["vmm/src/a.rs:2: no heading \"Guest disks\" in docs/design.md"];
    assert_eq!(found("vmm/src/a.rs", bad), expected);
    let link = "[design](docs/design.md), \"Nothing\"\n";
    assert_eq!(found("README.md", link).len(), 1);
}

#[test]
fn named_files_exist() {
    let good = "// vmm/src/lib.rs:12, `tests/kvm`, main.rs. src/lib.rs; /etc/x.sh, a/b, x.json\n\
                // `vmm/target/x.rs`, `vmm/NAME_test.rs`, `<name>_no.rs`\n";
    assert_eq!(found("vmm/src/a.rs", good), Vec::<String>::new());
    let bad = "// `vmm/src/b.rs`.\n\n// docs/absent.md and `tests/none` and absent.rs\n";
    let expected = [
        "vmm/src/a.rs:1: no such file: vmm/src/b.rs",
        "vmm/src/a.rs:3: no such file: docs/absent.md",
        "vmm/src/a.rs:3: no such file: tests/none",
        "vmm/src/a.rs:3: no such file: absent.rs",
    ];
    assert_eq!(found("vmm/src/a.rs", bad), expected);
    assert_eq!(found("scripts/a.sh", "# see docs/absent.md\n").len(), 1);
    assert_eq!(found("README.md", "```sh\nvmm/absent.sh\n```\n").len(), 1);
}

#[test]
fn messages_name_documents_that_exist() {
    assert_eq!(
        found("scripts/a.sh", "say \"see docs/absent.md\"\n").len(),
        1
    );
    assert_eq!(
        found("vmm/src/a.rs", "const A: &str = \"see docs/absent.md\";\n").len(),
        1
    );
    assert_eq!(
        found("vmm/src/a_test.rs", "const A: &str = \"docs/absent.md\";\n").len(),
        0
    );
}
