//! `nvvmm port`: ports of the host that lead into guests.

use nvvmm::VmError;
use nvvmm::control::{RuntimeDir, VmStatus};
use nvvmm::net::{host_range, port_range};
use nvvmm::spec::{NetSource, Published};

use super::args::PortArguments;
use super::json;
use super::output::{self, Column};
use super::terminal::tell;
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
    tell(&notices(&vms));
    output::print(&table(&vms))
}

/// Ports that are open: a passt that has ended has closed its own.
fn published(vm: &VmStatus) -> impl Iterator<Item = &Published> {
    let nets = vm.nets.iter().filter(|net| net.is_connected);
    nets.flat_map(|net| ports_of(&net.card.source))
}

fn ports_of(source: &NetSource) -> &[Published] {
    match source {
        NetSource::Passt { published } => published,
        _ => &[],
    }
}

/// Lines about VMs whose ports are closed.
fn notices(vms: &[VmStatus]) -> String {
    let has_lost = |vm: &&VmStatus| {
        let mut lost = vm.nets.iter().filter(|net| !net.is_connected);
        lost.any(|net| !ports_of(&net.card.source).is_empty())
    };
    let lines = vms.iter().filter(has_lost).map(|vm| {
        let name = &vm.name;
        format!("nvvmm: {name}: its network is gone, and its ports are closed ('nvvmm ps')\n")
    });
    lines.collect()
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
