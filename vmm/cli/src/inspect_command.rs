//! `nvvmm inspect`: what a pool and its snapshots are made of, decoded, without a VM.

use std::fmt::Write;
use std::path::Path;

use nvvmm::VmError;
use nvvmm::inspect::decoded;
use nvvmm_snapshot::Pool;
use serde::Serialize;
use serde_json::Value;

use super::args::PoolOption;
use super::json::inspect::{InsidePool, InsideSnapshot};
use super::terminal::shown_in_line;
use super::{output, pool_path};

/// `nvvmm inspect`.
pub fn run(snapshot: Option<&str>, option: &PoolOption, json: bool) -> Result<(), VmError> {
    let path = pool_path::found(option)?;
    let pool = pool_path::open_confined(&path)?;
    let decoded = match snapshot {
        None => value(&InsidePool::of(&path, &pool.inside()?))?,
        Some(name) => of_snapshot(&pool, &path, name)?,
    };
    if json {
        output::print_json(&decoded)
    } else {
        output::print(&text(&decoded))
    }
}

fn value(of: &impl Serialize) -> Result<Value, VmError> {
    serde_json::to_value(of).map_err(|e| VmError::failed(format!("cannot write JSON: {e}")))
}

fn of_snapshot(pool: &Pool, path: &Path, name: &str) -> Result<Value, VmError> {
    let inside = pool.inside_snapshot(name)?;
    let state = pool.read_state(inside.entry.id)?;
    let saved_state = decoded::state(inside.entry.kind, &state)?;
    value(&InsideSnapshot::of(path, &inside, saved_state))
}

/// Formats a value as indented lines, `name: value`. Items of a list have numbers.
fn text(decoded: &Value) -> String {
    let mut text = String::new();
    lines(decoded, 0, &mut text);
    text
}

fn lines(value: &Value, depth: usize, text: &mut String) {
    let mut member = |name: &str, value: &Value| {
        let (indent, name) = ("  ".repeat(depth), shown_in_line(name));
        // Writing to a string does not fail.
        match value {
            Value::Array(items) if items.is_empty() => _ = writeln!(text, "{indent}{name}: none"),
            Value::Array(items) if items.iter().all(is_plain) => {
                let shown: Vec<String> = items.iter().map(plain).collect();
                _ = writeln!(text, "{indent}{name}: {}", shown.join(" "));
            }
            Value::Object(_) | Value::Array(_) => {
                _ = writeln!(text, "{indent}{name}:");
                lines(value, depth + 1, text);
            }
            plainly => _ = writeln!(text, "{indent}{name}: {}", plain(plainly)),
        }
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| member(name, value)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(number, value)| member(&number.to_string(), value)),
        _ => {}
    }
}

fn is_plain(value: &Value) -> bool {
    !matches!(value, Value::Object(_) | Value::Array(_))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => shown_in_line(text).into_owned(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
#[path = "inspect_command_test.rs"]
mod inspect_command_test;
