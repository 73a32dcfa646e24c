//! The snapshots that a step must lead to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::contents::{Saved, Snapshots};
use super::disks::{Content, Disks, Expected, Request};
use super::model::{Model, Vm};
use super::steps::Step;
use crate::SnapshotKind;

/// The snapshots as they are once a step is done.
pub(super) fn intended(model: &Model, step: &Step) -> Snapshots {
    let mut saved = model.saved.clone();
    match step {
        Step::Snapshot {
            vm,
            name,
            state_bytes,
            replaced,
            ..
        } => {
            if let Some(vm) = &model.vms[*vm] {
                if let Some(replaced) = replaced {
                    saved.remove(replaced);
                }
                let snapshot = Saved {
                    kind: SnapshotKind::Vm,
                    // What makes it so is tested elsewhere (tests/pool/foreign.rs).
                    foreign: vm.holder.is_foreign(),
                    parent: vm.base,
                    memory_bytes: vm.memory_bytes,
                    frames: vm.frames.clone(),
                    state: state(name, *state_bytes),
                    disks: drives(model, vm),
                };
                saved.insert(name.clone(), Arc::new(snapshot));
            }
        }
        Step::Capture {
            vm,
            name,
            first,
            pages,
            ..
        } => {
            if let Some(vm) = &model.vms[*vm] {
                let taken = captured(vm, *first, *pages);
                let image = Saved {
                    kind: SnapshotKind::Process,
                    // What makes it so is tested elsewhere (tests/pool/foreign.rs).
                    foreign: vm.holder.is_foreign(),
                    parent: vm.base,
                    memory_bytes: image_bytes(*pages),
                    frames: taken
                        .iter()
                        .map(|(page, place)| (*page, vm.frames[place]))
                        .collect(),
                    state: state(name, 300),
                    disks: Default::default(),
                };
                saved.insert(name.clone(), Arc::new(image));
            }
        }
        Step::Receive { from, name, .. } => {
            if let Some(sent) = model.saved.get(from).filter(|_| !saved.contains_key(name)) {
                let received = Saved {
                    foreign: true,
                    parent: None,
                    ..Saved::clone(sent)
                };
                saved.insert(name.clone(), Arc::new(received));
            }
        }
        Step::Remove { name, .. } => drop(saved.remove(name)),
        Step::Consume { vm } => {
            let pool = model.vms[*vm]
                .as_ref()
                .map(|vm| (vm.base, vm.holder.pool()));
            if let Some((Some(id), pool)) = pool {
                let names = pool.snapshots().unwrap_or_default();
                let name = names.into_iter().find(|entry| entry.id == id);
                if let Some(entry) = name {
                    saved.remove(&entry.name);
                }
            }
        }
        _ => {}
    }
    saved
}

/// The disks of a VM as it sees them.
fn drives(model: &Model, vm: &Vm) -> BTreeMap<String, Content> {
    let drives = vm.drives.iter();
    let content = |name: &str| {
        model
            .disks
            .get(name)
            .map(Expected::latest)
            .unwrap_or_default()
    };
    drives
        .map(|drive| (drive.name.clone(), content(&drive.name)))
        .collect()
}

/// The disks as they are once a step is done.
pub(super) fn intended_disks(model: &Model, step: &Step) -> Disks {
    let mut disks = model.disks.clone();
    let drives = |vm: &usize| model.vms[*vm].iter().flat_map(|vm| &vm.drives);
    match step {
        Step::CreateDisk { name, .. } => {
            disks.entry(name.clone()).or_default();
        }
        Step::RemoveDisk { name, .. } => drop(disks.remove(name)),
        Step::CopyDisk { name, from, .. } if !disks.contains_key(name) => {
            let disk = match from {
                None => disks.get("d0").map(Expected::latest),
                Some(from) => model
                    .saved
                    .get(from)
                    .and_then(|saved| saved.disks.get("d0").cloned()),
            };
            if let Some(content) = disk {
                disks.insert(name.clone(), Expected::exactly(&content));
            }
        }
        Step::DiskRequest { vm, drive, request } => {
            if let Some(drive) = drives(vm).nth(*drive)
                && let Some(disk) = disks.get_mut(&drive.name)
            {
                let writes = request.writes(model.next_tag());
                writes
                    .into_iter()
                    .for_each(|(cell, tag)| disk.write(cell, tag));
                if *request == Request::Flush {
                    disk.flush();
                }
            }
        }
        Step::RewindDisks { vm, name } => {
            let saved = model.saved.get(name).map(|saved| &saved.disks);
            for drive in drives(vm) {
                if let Some(content) = saved.and_then(|disks| disks.get(&drive.name)) {
                    disks.insert(drive.name.clone(), Expected::exactly(content));
                }
            }
        }
        Step::Snapshot { vm, .. } => {
            for drive in drives(vm) {
                if let Some(disk) = disks.get_mut(&drive.name) {
                    disk.flush();
                }
            }
        }
        _ => {}
    }
    disks
}

/// Pages of the image, as chunk and frame, with the frames of the VM: every other one, in
/// another order than in the VM.
pub(super) fn captured(vm: &Vm, first: usize, pages: usize) -> Vec<((u32, u32), (u32, u32))> {
    let places = vm.frames.keys().copied().skip(first).take(pages);
    let numbers = (0..pages as u32)
        .rev()
        .map(|page| (2 * page / 512, 2 * page % 512));
    numbers.zip(places).collect()
}

pub(super) fn image_bytes(pages: usize) -> u64 {
    (2 * pages.max(1) as u64) << 12
}

pub(super) fn state(name: &str, bytes: usize) -> Vec<u8> {
    name.bytes().cycle().take(bytes).collect()
}
