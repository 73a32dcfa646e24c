//! `nvvmm memory`: the memory of a VM, as the pool and its guest count it.

use nvvmm::VmError;
use nvvmm::control::{BalloonReport, MemoryStatus, RuntimeDir};

use super::args::MemoryArguments;
use super::human_units::size;
use super::json;
use super::output::{self, Column};
use super::vm_commands::connect;

/// `nvvmm memory`.
///
/// # Errors
/// There is no such VM, it does not answer, or it has no balloon.
pub fn run(arguments: &MemoryArguments) -> Result<(), VmError> {
    let dir = RuntimeDir::of_user()?;
    let memory = connect(&dir.find(&arguments.vm)?)?.memory(arguments.target)?;
    if arguments.json.json {
        return output::print_json(&json::memory::Memory::of(&memory));
    }
    output::print(&table(&memory))
}

fn table(memory: &MemoryStatus) -> String {
    let columns = [
        Column::Text("MEMORY"),
        Column::Number("SIZE"),
        Column::Text("MEANING"),
    ];
    let balloon = memory.balloon.as_ref();
    let guest = balloon.filter(|balloon| balloon.has_driver);
    let rows = [
        ("all", Some(memory.memory_bytes), "of the guest"),
        ("used", Some(memory.used_bytes), "has a block of the pool"),
        ("own", Some(memory.own_bytes), "of it, in blocks of this VM"),
        (
            "shared",
            Some(memory.shared_bytes),
            "of it, in blocks of snapshots",
        ),
        (
            "empty",
            Some(memory.empty_bytes),
            "holds nothing: never used, or given back",
        ),
        (
            "free",
            guest.and_then(|b| b.free_bytes),
            "unused, says the guest",
        ),
        (
            "available",
            guest.and_then(|b| b.available_bytes),
            "for programs, says the guest",
        ),
        (
            "balloon",
            balloon.map(|b| b.actual_bytes),
            "taken from the guest",
        ),
        (
            "target",
            balloon.map(|b| b.target_bytes),
            "to be taken from the guest",
        ),
        (
            "released",
            balloon.map(|b| b.released_bytes),
            "given back to the pool so far",
        ),
    ];
    let rows = rows.map(|(name, bytes, meaning)| {
        let text = bytes.map_or_else(|| "-".to_owned(), size);
        vec![name.to_owned(), text, meaning.to_owned()]
    });
    format!("{}{}", output::table(&columns, &rows), notice(balloon))
}

/// Tells why nothing goes back to the pool, if that is so.
fn notice(balloon: Option<&BalloonReport>) -> &'static str {
    match balloon {
        None => "The VM has no balloon: it comes from a snapshot of an older nvvmm.\n",
        Some(balloon) if !balloon.has_driver => {
            "No driver of the guest works with the balloon (Linux: virtio_balloon).\n"
        }
        Some(balloon) if !balloon.reports_free => {
            "The guest does not report free memory (Linux does since 5.7).\n"
        }
        Some(_) => "",
    }
}

#[cfg(test)]
#[path = "memory_command_test.rs"]
mod memory_command_test;
