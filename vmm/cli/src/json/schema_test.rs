//! The schemas in docs/formats/json are made here, and hold the rules of docs/formats/json.md.

pub mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::CommandFactory;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::*;
use crate::args::Arguments;

/// Set to anything, it has the files of the schemas written anew.
const UPDATE: &str = "NVVMM_SCHEMA_UPDATE";

/// Commands with `--json`, and the schema of their output.
fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        ("adopt", of::<snapshot::Adopted>()),
        ("bench", of::<bench::Bench>()),
        ("checkpoint", of::<ring::Ring>()),
        ("diff", of::<snapshot::Difference>()),
        ("disk copy", of::<disk::Disk>()),
        ("disk create", of::<disk::Disk>()),
        ("disk export", of::<disk::ExportedDisk>()),
        ("disk import", of::<disk::Disk>()),
        ("disk info", of::<disk::Disk>()),
        ("disk ls", of::<Vec<disk::Disk>>()),
        ("disk rescan", of::<Vec<vm::ResizedDisk>>()),
        ("disk resize", of::<disk::Disk>()),
        ("disk rm", of::<Vec<disk::RemovedDisk>>()),
        ("doctor", of::<doctor::Doctor>()),
        ("export", of::<snapshot::Exported>()),
        (
            "inspect",
            of::<Either<inspect::InsidePool, inspect::InsideSnapshot>>(),
        ),
        ("memory", of::<memory::Memory>()),
        ("migrate", of::<moving::Migrated>()),
        ("pool check", of::<pool::Check>()),
        ("pool grow", of::<pool::Growth>()),
        ("pool map", of::<pool::Map>()),
        ("pool scrub", of::<pool::Scrub>()),
        ("pool status", of::<pool::Status>()),
        ("port", of::<Vec<vm::Port>>()),
        ("ps", of::<Vec<vm::Vm>>()),
        ("pull", of::<remote::Pulled>()),
        ("push", of::<remote::Pushed>()),
        ("receive", of::<moving::Received>()),
        ("remote gc", of::<remote::Collection>()),
        ("remote ls", of::<Vec<remote::Stored>>()),
        ("remote rm", of::<Vec<remote::RemovedRemote>>()),
        ("remote verify", of::<remote::Verification>()),
        ("replicate", of::<remote::Replication>()),
        (
            "restore",
            of::<Either<Either<vm::Vm, Vec<vm::Vm>>, process::Restarted>>(),
        ),
        ("rewind", of::<ring::Rewind>()),
        ("rm", of::<Vec<snapshot::Removed>>()),
        ("run", of::<vm::Vm>()),
        ("send", of::<moving::Sent>()),
        (
            "snapshot",
            of::<Either<Either<snapshot::Taken, process::Captured>, process::Checked>>(),
        ),
        ("snapshots", of::<Vec<snapshot::Snapshot>>()),
        ("spare", of::<Vec<vm::Spares>>()),
        ("start", of::<vm::Vm>()),
        ("stats", of::<stats::Stats>()),
        ("wait", of::<Vec<vm::Vm>>()),
    ]
}

/// Output in one of two shapes.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is made")]
enum Either<A, B> {
    One(A),
    Other(B),
}

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(exact));
    settings.into_generator().into_root_schema_for::<T>().into()
}

/// An object has all of its members, and no others.
fn exact(schema: &mut Schema) {
    let names = schema.get("properties").and_then(Value::as_object);
    let Some(names) = names.map(|members| members.keys().cloned().collect::<Vec<_>>()) else {
        return;
    };
    schema.insert("required".into(), json!(names));
    schema.insert("additionalProperties".into(), json!(false));
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats/json")
}

fn file_name(command: &str) -> String {
    format!("{}.json", command.replace(' ', "-"))
}

fn file_text(command: &str, mut schema: Value) -> String {
    schema["title"] = format!("nvvmm {command} --json").into();
    let mut text = serde_json::to_string_pretty(&schema).unwrap();
    text.push('\n');
    text
}

#[test]
fn the_schemas_in_the_docs_are_those_of_the_output() {
    let update = std::env::var_os(UPDATE).is_some();
    let mut expected = BTreeSet::new();
    for (command, schema) in schemas() {
        let path = directory().join(file_name(command));
        let text = file_text(command, schema);
        if update {
            std::fs::create_dir_all(directory()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == text,
            "{} is not the schema of `nvvmm {command} --json` as it is; see the change, then \
             write it anew: {UPDATE}=1 cargo test -p nvvmm-cli --lib json::",
            path.display()
        );
        expected.insert(file_name(command));
    }
    let found = std::fs::read_dir(directory()).unwrap();
    let found: BTreeSet<String> = found
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn every_command_with_json_has_a_schema() {
    fn collect(command: &clap::Command, path: &str, found: &mut BTreeSet<String>) {
        for inner in command
            .get_subcommands()
            .filter(|inner| !inner.is_hide_set())
        {
            let path = format!("{path} {}", inner.get_name()).trim().to_owned();
            if inner
                .get_arguments()
                .any(|argument| argument.get_id() == "json")
            {
                found.insert(path.clone());
            }
            collect(inner, &path, found);
        }
    }
    let mut found = BTreeSet::new();
    collect(&Arguments::command(), "", &mut found);
    let known: BTreeSet<String> = { schemas().into_iter() }
        .map(|(command, _)| command.to_owned())
        .collect();
    assert_eq!(found, known);
}

#[test]
fn the_chapter_names_each_command_and_its_schema() {
    let chapter = std::fs::read_to_string(directory().join("../json.md")).unwrap();
    for (command, _) in schemas() {
        let row = format!("| `{command}` | [{0}](json/{0})", file_name(command));
        assert!(chapter.contains(&row), "{row} ...");
    }
}

/// Members of all objects of all schemas: their name, and what the schema says of them.
fn members() -> Vec<(String, String, Value)> {
    fn collect(command: &str, schema: &Value, found: &mut Vec<(String, String, Value)>) {
        match schema {
            Value::Object(parts) => {
                if let Some(Value::Object(members)) = parts.get("properties") {
                    for (name, member) in members {
                        found.push((command.to_owned(), name.clone(), member.clone()));
                    }
                }
                parts
                    .values()
                    .for_each(|part| collect(command, part, found));
            }
            Value::Array(parts) => parts.iter().for_each(|part| collect(command, part, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for (command, schema) in schemas() {
        collect(command, &schema, &mut found);
    }
    found
}

/// The type of a member without null: `integer`, `array of string`, `object`.
fn type_of(member: &Value) -> String {
    let one = |name: &str| match name {
        "array" => format!("array of {}", type_of(&member["items"])),
        name => name.to_owned(),
    };
    if let Some(name) = member["type"].as_str() {
        return one(name);
    }
    if let Some(names) = member["type"].as_array() {
        let name = names
            .iter()
            .filter_map(Value::as_str)
            .find(|name| *name != "null");
        return one(name.expect("a type beside null"));
    }
    if let Some(choices) = member["anyOf"].as_array() {
        let choice = choices.iter().find(|choice| choice["type"] != "null");
        return type_of(choice.expect("a type beside null"));
    }
    assert!(member["$ref"].is_string(), "{member}");
    "object".to_owned()
}

/// Integers that have no unit: ids, and numbers of things that are counted from 0 or 1.
const NUMBERS: [&str; 21] = [
    "block",
    "block_table_block",
    "chunk",
    "chunk_table_block",
    "crc24",
    "data_first_chunk",
    "device_type",
    "dpl",
    "first_chunk",
    "first_frame",
    "frame",
    "generation",
    "gfn",
    "landlock_abi",
    "log_base",
    "next_available",
    "next_used",
    "slot",
    "spare_first_block",
    "type",
    "version",
];

/// Last words of the name of an integer: its unit, or what it identifies.
const UNITS: [&str; 12] = [
    "blocks", "bytes", "count", "crc32", "id", "parts", "percent", "pid", "port", "ticks", "unit",
    "us",
];

#[test]
fn numbers_are_whole_and_have_their_unit_in_their_name() {
    for (command, name, member) in members() {
        let kind = type_of(&member);
        assert!(!kind.contains("number"), "{command}: {name} is a {kind}");
        let unit = name.rsplit('_').next().unwrap_or_default();
        let is_named = UNITS.contains(&unit) || NUMBERS.contains(&name.as_str());
        if kind == "integer" {
            assert!(is_named, "{command}: {name} has no unit");
        } else if unit == "count" || unit == "bytes" || unit == "us" {
            panic!("{command}: {name} is no integer but {kind}");
        }
    }
}

#[test]
fn blocks_are_counted_beside_their_size() {
    for (command, schema) in schemas() {
        let text = schema.to_string();
        assert!(
            !text.contains("_blocks\"") || text.contains("\"block_bytes\""),
            "{command}"
        );
    }
}

#[test]
fn one_name_is_one_thing() {
    let mut types: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (command, name, member) in members() {
        let kind = type_of(&member);
        let (known, first) = types
            .entry(name.clone())
            .or_insert_with(|| (kind.clone(), command.clone()));
        assert_eq!(
            *known, kind,
            "{name} of {command} is another type than {name} of {first}"
        );
    }
}

#[test]
fn things_have_the_names_that_they_have_everywhere() {
    let other_names = [
        "name",
        "vm_name",
        "snapshot_name",
        "id",
        "timestamp",
        "path",
        "ms",
    ];
    for (command, name, _) in members() {
        // The path of a disk, which is no pool.
        let is_allowed = name == "path"
            && [
                "ps",
                "run",
                "restore",
                "start",
                "wait",
                "snapshot",
                "inspect",
                "disk rescan",
            ]
            .contains(&&*command);
        assert!(
            is_allowed || !other_names.contains(&name.as_str()),
            "{command}: {name}"
        );
    }
}

#[test]
fn a_time_is_text_and_digits() {
    let members = members();
    let of = |wanted: &str| -> BTreeSet<&String> {
        let found = members.iter().filter(|(_, name, _)| name == wanted);
        found.map(|(command, ..)| command).collect()
    };
    for (text, digits) in [
        ("created", "created_unix_ns"),
        ("began", "began_unix_ns"),
        ("started", "started_unix_ns"),
        ("ended", "ended_unix_ns"),
    ] {
        assert_eq!(of(text), of(digits));
        assert!(!of(text).is_empty());
    }
    let digits = { members.iter() }.filter(|(_, name, _)| name.ends_with("_ns"));
    for (command, name, member) in digits {
        assert_eq!(type_of(member), "string", "{command}: {name}");
    }
    assert_eq!(
        rfc3339(1_795_967_404_000_000_007),
        "2026-11-29T15:50:04.000000007Z"
    );
}

#[test]
fn every_member_is_explained() {
    for (command, name, member) in members() {
        let has_text = |of: &Value| of["description"].is_string();
        assert!(has_text(&member), "{command}: {name}");
    }
    let empty = Map::new();
    for (command, schema) in schemas() {
        let objects = schema["$defs"].as_object().unwrap_or(&empty);
        for (name, object) in objects {
            assert!(object["description"].is_string(), "{command}: {name}");
        }
    }
}
