//! The table of the kernel's interfaces in docs/inside/process-interfaces.md knows all that the
//! headers and /proc of this machine have.

use std::collections::BTreeMap;
use std::path::Path;

const TABLE: &str = include_str!("../../../../docs/inside/process-interfaces.md");
const VERDICTS: [&str; 5] = ["held", "refused", "ignored", "no state", "elsewhere"];

/// The rows of the chapter's tables: name and verdict.
fn table() -> BTreeMap<&'static str, &'static str> {
    let mut rows = BTreeMap::new();
    for line in TABLE.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (names, verdict) = (cells[1], cells[2]);
        assert!(VERDICTS.contains(&verdict), "no verdict: {line}");
        assert!(
            cells.len() == 5 && !cells[3].is_empty(),
            "no reason: {line}"
        );
        for name in names.split(", ") {
            let name = name.trim_matches('`');
            assert!(
                rows.insert(name, verdict).is_none(),
                "{name} is there twice"
            );
        }
    }
    rows
}

/// The names of a header that begin so, if the header is there: those of options, which begin a
/// line, not those of their values, which are indented.
fn names(header: &str, prefix: &str) -> Vec<String> {
    let Ok(text) = std::fs::read_to_string(Path::new("/usr/include").join(header)) else {
        eprintln!("SKIPPED: {header} is not there");
        return Vec::new();
    };
    let defined = text
        .lines()
        .filter_map(|line| line.strip_prefix("#define "));
    let names = defined.filter_map(|line| line.split_ascii_whitespace().next());
    let names = names.filter(|name| name.starts_with(prefix) && !name.contains('('));
    names.map(str::to_owned).collect()
}

fn assert_known(of: &str, names: impl IntoIterator<Item = String>, least: usize) {
    let table = table();
    let names: Vec<String> = names.into_iter().collect();
    assert!(names.is_empty() || names.len() >= least, "{of}: {names:?}");
    let missing: Vec<&String> = (names.iter())
        .filter(|name| !table.contains_key(name.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/inside/process-interfaces.md does not say what becomes of {missing:?} ({of})"
    );
}

#[test]
fn each_option_of_prctl_has_a_verdict() {
    assert_known("prctl", names("linux/prctl.h", "PR_"), 60);
}

#[test]
fn each_flag_of_clone_has_a_verdict() {
    let flags = names("linux/sched.h", "CLONE_");
    let flags = flags
        .into_iter()
        .filter(|name| !name.starts_with("CLONE_ARGS_"));
    assert_known("clone", flags, 24);
    let policies = names("linux/sched.h", "SCHED_").into_iter();
    assert_known(
        "sched",
        policies.filter(|name| !name.starts_with("SCHED_FLAG_")),
        6,
    );
}

#[test]
fn each_command_of_fcntl_has_a_verdict() {
    const VALUES: [&str; 11] = [
        "F_SEAL_",
        "F_OWNER_",
        "F_RDLCK",
        "F_WRLCK",
        "F_UNLCK",
        "F_EXLCK",
        "F_SHLCK",
        "F_LINUX_",
        "F_GETLK64",
        "F_SETLK64",
        "F_SETLKW64",
    ];
    for header in ["linux/fcntl.h", "asm-generic/fcntl.h"] {
        let commands = names(header, "F_").into_iter();
        let commands = commands.filter(|name| !VALUES.iter().any(|value| name.starts_with(value)));
        assert_known(header, commands, 12);
    }
}

#[test]
fn each_field_of_a_status_and_each_file_of_a_process_has_a_verdict() {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    assert_known("status", fields.map(|(name, _)| name.to_owned()), 40);
    let files = std::fs::read_dir("/proc/self").expect("Linux");
    let names = files.map(|file| file.expect("a file").file_name());
    let names = names.map(|name| format!("/proc/PID/{}", name.to_string_lossy()));
    assert_known("/proc/PID", names, 40);
}
