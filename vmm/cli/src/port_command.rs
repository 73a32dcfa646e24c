//! `nvvmm port`: ports of the host that lead into guests.

use nvvmm::VmError;
use nvvmm::control::{RuntimeDir, VmStatus};
use nvvmm::net::{host_range, port_range};
use nvvmm::spec::{NetSource, Published};

use super::args::PortArguments;
use super::json;
use super::output::{self, Column};
use super::vm_commands::connect;

/// `nvvmm port`.
///
/// # Errors
/// There is no such VM, or it does not answer.
pub fn run(arguments: &PortArguments) -> Result<(), VmError> {
    let dir = RuntimeDir::of_user()?;
    let vms = match &arguments.vm {
        Some(vm) => vec![connect(&dir.find(vm)?)?.status()?],
        // One that does not answer is for 'nvvmm ps' to tell.
        None => { dir.entries()?.into_iter() }
            .filter_map(|entry| connect(&entry).ok()?.status().ok())
            .collect(),
    };
    if arguments.json.json {
        let ports = vms
            .iter()
            .flat_map(|vm| published(vm).map(|published| json::vm::Port::of(&vm.name, published)));
        return output::print_json(&ports.collect::<Vec<_>>());
    }
    output::print(&table(&vms))
}

fn published(vm: &VmStatus) -> impl Iterator<Item = &Published> {
    vm.nets.iter().flat_map(|net| match &net.card.source {
        NetSource::Passt { published } => published.as_slice(),
        _ => &[],
    })
}

fn table(vms: &[VmStatus]) -> String {
    let columns = [
        Column::Text("VM"),
        Column::Text("HOST"),
        Column::Text("GUEST"),
        Column::Text("PROTOCOL"),
    ];
    let rows = vms
        .iter()
        .flat_map(|vm| published(vm).map(|published| row(&vm.name, published)));
    output::table(&columns, &rows.collect::<Vec<_>>())
}

fn row(vm: &str, published: &Published) -> Vec<String> {
    vec![
        vm.to_owned(),
        host_range(published),
        port_range(published.guest_port, published.count),
        published.protocol.to_string(),
    ]
}

#[cfg(test)]
#[path = "port_command_test.rs"]
mod port_command_test;
