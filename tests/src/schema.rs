//! JSON of commands, held against the schemas in docs/formats/json.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::Value;

/// Commands whose output was valid in this process.
static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn directory() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/formats/json"))
}

/// Name of the schema of a command, without its ending: `ps`, `pool-status`.
fn schema_of(arguments: &[&str]) -> String {
    match arguments {
        ["pool", command, ..] => format!("pool-{command}"),
        ["disk", command, ..] => format!("disk-{command}"),
        ["remote", command, ..] => format!("remote-{command}"),
        [command, ..] => (*command).to_owned(),
        [] => String::new(),
    }
}

/// Names of all schemas.
pub fn all() -> BTreeSet<String> {
    let files = std::fs::read_dir(directory()).expect("the schemas are there");
    let names = files.map(|file| file.expect("a file").path());
    names
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect()
}

/// Names of the schemas that outputs were held against so far.
pub fn seen() -> BTreeSet<String> {
    SEEN.lock().expect("no test fails in it").clone()
}

/// Fails the test unless `document` is what the schema of the command allows. A command for tests
/// has no schema.
pub fn assert_valid(arguments: &[&str], document: &Value) {
    let name = schema_of(arguments);
    let path = directory().join(format!("{name}.json"));
    let Ok(text) = std::fs::read(&path) else {
        assert_eq!(name, "audit", "nvvmm {arguments:?} has no schema");
        return;
    };
    let schema: Value = serde_json::from_slice(&text).expect("a schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema is one");
    let errors: Vec<String> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(
        errors.is_empty(),
        "nvvmm {arguments:?} does not print what {} allows: {}\n{document:#}",
        path.display(),
        errors.join("; ")
    );
    SEEN.lock().expect("no test fails in it").insert(name);
}
