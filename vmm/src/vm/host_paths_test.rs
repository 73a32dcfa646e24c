use std::path::Path;

use nvvmm_snapshot::{CreateOptions, NewMap, NewSnapshot, Pool, SnapshotKind};

use super::*;
use crate::spec::{Mac, NetChoice, NetSource, Protocol, Published};

fn disk(path: &str, read_only: bool) -> DiskSpec {
    DiskSpec {
        source: DiskSource::File(path.into()),
        read_only,
        ..DiskSpec::default()
    }
}

fn machine() -> VmSpec {
    VmSpec::builder("/sender/kernel")
        .initramfs(Some("/sender/initrd".into()))
        .cmdline("sender")
        .disks([disk("/etc/shadow", false), disk("/b", true)])
        .build()
}

/// An entry of a snapshot, taken here or marked as foreign.
fn entry(foreign: bool) -> SnapshotEntry {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 8 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let holder = pool.hold("vm").unwrap();
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "base",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(4096, &[])],
        state: b"",
        frames_new: 0,
    };
    if foreign {
        holder.mark_foreign();
    }
    holder
        .commit_snapshot(new, holder.reserve(0).unwrap())
        .unwrap();
    pool.find("base").unwrap()
}

fn given() -> RestoreOptions {
    RestoreOptions {
        disks: Some(vec![disk("/mine/a", false), disk("/mine/b", true)]),
        ..RestoreOptions::from("base")
    }
}

#[test]
fn the_paths_of_a_snapshot_that_was_taken_here_are_used() {
    let spec = machine_of(machine(), &entry(false), &"base".into()).unwrap();
    assert_eq!(spec, machine());
}

#[test]
fn a_foreign_snapshot_with_disks_is_refused_without_others() {
    let error = machine_of(machine(), &entry(true), &"base".into()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("/etc/shadow, /b (read-only)"));
    let remedy = error.remedy.unwrap();
    for part in ["--disk FILE", "2 disks", "nvvmm adopt base"] {
        assert!(remedy.contains(part), "{remedy}");
    }
}

#[test]
fn nothing_of_the_sender_is_left_in_the_machine_of_a_foreign_snapshot() {
    let spec = machine_of(machine(), &entry(true), &given()).unwrap();
    let disks: Vec<&Path> = spec.disks().filter_map(DiskSpec::path).collect();
    assert_eq!(disks, [Path::new("/mine/a"), Path::new("/mine/b")]);
    assert_eq!((spec.kernel, spec.initramfs), (None, None));
    assert_eq!(spec.cmdline, "");
}

#[test]
fn a_kernel_that_is_given_is_all_that_a_reboot_loads() {
    for foreign in [false, true] {
        let restore = RestoreOptions {
            boot: Some(BootChoice {
                kernel: "/mine/kernel".into(),
                ..BootChoice::default()
            }),
            ..given()
        };
        let spec = machine_of(machine(), &entry(foreign), &restore).unwrap();
        assert_eq!(spec.kernel.as_deref(), Some(Path::new("/mine/kernel")));
        assert_eq!((spec.initramfs, spec.cmdline.as_str()), (None, ""));
    }
}

#[test]
fn another_number_of_disks_is_refused() {
    let restore = RestoreOptions {
        disks: Some(vec![disk("/mine/a", false)]),
        ..RestoreOptions::from("base")
    };
    let error = machine_of(machine(), &entry(true), &restore).unwrap_err();
    assert!(
        error
            .message
            .contains("has 2 disks, but --disk was given 1 time")
    );
}

fn with_card(source: NetSource) -> VmSpec {
    let choice = NetChoice::of(source);
    let card = choice.new_card(Mac::local([0, 1, 2, 3, 4, 5]));
    VmSpec::builder("/kernel").net(Some(card)).build()
}

fn http() -> Published {
    Published {
        protocol: Protocol::Tcp,
        address: None,
        host_port: 8080,
        guest_port: 80,
        count: 1,
    }
}

fn restored(card: NetSource, foreign: bool, restore: &RestoreOptions) -> Result<NetSource, String> {
    let spec = machine_of(with_card(card), &entry(foreign), restore);
    let spec = spec.map_err(|error| format!("{} {}", error.message, error.remedy.unwrap()))?;
    Ok(spec.nets().next().unwrap().source.clone())
}

#[test]
fn a_card_at_passt_comes_back_without_the_ports_of_the_original() {
    let source = |published| NetSource::Passt { published };
    let original = || source(vec![http()]);
    let plain = RestoreOptions::from("base");
    assert_eq!(restored(original(), false, &plain), Ok(source(vec![])));
    let publishing = RestoreOptions {
        published: vec![http()],
        ..RestoreOptions::from("base")
    };
    assert_eq!(restored(original(), false, &publishing), Ok(original()));
}

#[test]
fn a_tap_device_is_used_again_and_a_descriptor_cannot_be() {
    let plain = RestoreOptions::from("base");
    let tap = || NetSource::Tap {
        name: "tap0".into(),
    };
    assert_eq!(restored(tap(), false, &plain), Ok(tap()));
    let refused = restored(NetSource::Fd { fd: 7 }, false, &plain).unwrap_err();
    assert!(refused.contains("--net fd=N"), "{refused}");
    let publishing = RestoreOptions {
        published: vec![http()],
        ..RestoreOptions::from("base")
    };
    let passt = RestoreOptions {
        net: Some(Box::new(NetChoice::of(NetSource::Passt {
            published: vec![],
        }))),
        ..RestoreOptions::from("base")
    };
    let refused = restored(tap(), false, &passt).unwrap_err();
    assert!(
        refused.contains("offloads of the TAP device 'tap0'"),
        "{refused}"
    );
    let refused = restored(tap(), false, &publishing).unwrap_err();
    assert!(refused.contains("--net passt"), "{refused}");
}

#[test]
fn nothing_that_a_foreign_snapshot_names_of_a_network_is_used() {
    for source in [
        NetSource::Passt {
            published: vec![http()],
        },
        NetSource::Tap {
            name: "eth\u{1b}0".into(),
        },
        NetSource::Fd { fd: 3 },
        NetSource::None,
    ] {
        let plain = RestoreOptions::from("base");
        let refused = restored(source.clone(), true, &plain).unwrap_err();
        assert!(refused.contains("--net none"), "{refused}");
        assert!(!refused.contains('\u{1b}'), "{refused}");
        let none = RestoreOptions {
            net: Some(Box::new(NetChoice::of(NetSource::None))),
            ..RestoreOptions::from("base")
        };
        assert_eq!(restored(source, true, &none), Ok(NetSource::None));
    }
}

#[test]
fn a_guest_keeps_what_it_knows_of_its_card() {
    let choice = NetChoice {
        mac: Some(Mac::local([9; 6])),
        ..NetChoice::of(NetSource::None)
    };
    let restore = RestoreOptions {
        net: Some(Box::new(choice)),
        ..RestoreOptions::from("base")
    };
    let refused = restored(NetSource::None, false, &restore).unwrap_err();
    assert!(refused.contains("leave 'mac=' out"), "{refused}");
}

#[test]
fn a_machine_without_a_card_gets_none() {
    let spec = || VmSpec::builder("/kernel").build();
    let restore = |source| RestoreOptions {
        net: Some(Box::new(NetChoice::of(source))),
        ..RestoreOptions::from("base")
    };
    let passt = restore(NetSource::Passt { published: vec![] });
    let refused = machine_of(spec(), &entry(false), &passt).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused);
    let none = restore(NetSource::None);
    assert_eq!(machine_of(spec(), &entry(false), &none).unwrap(), spec());
}
