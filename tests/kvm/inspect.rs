//! `nvvmm inspect` decodes the parts of a pool and of its snapshots.

use nvvmm_tests::Host;
use serde_json::Value;

fn number(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.strip_prefix("0x"));
    let text = text.unwrap_or_else(|| panic!("{value} is no number in hex"));
    u64::from_str_radix(text, 16).unwrap()
}

#[test]
fn a_snapshot_and_its_pool_are_decoded_without_a_vm() {
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(64, 2);
    vm.ask("fill 16 1");
    vm.snapshot("base");
    vm.stop();

    let inside = host.json(&["inspect", "base"]);
    assert_eq!(inside["entry"]["snapshot"], "base");
    assert_eq!(
        inside["entry"]["mapped_bytes"], inside["map"]["mapped_bytes"],
        "{inside}"
    );
    let state = &inside["saved_state"];
    assert_eq!(
        (&state["spec"]["vcpu_count"], &state["spec"]["memory_bytes"]),
        (&2.into(), &(64u64 << 20).into())
    );
    let vcpus = state["vcpus"].as_array().unwrap();
    assert_eq!(vcpus.len(), 2);
    for vcpu in vcpus {
        // The guest's own program begins at 1 MiB. The page tables that it was given are below.
        let registers = &vcpu["registers"];
        assert!(
            (1 << 20..64 << 20).contains(&number(&registers["rip"])),
            "{registers}"
        );
        assert_eq!(number(&registers["cr3"]), 0x8000, "{registers}");
        assert_eq!(number(&vcpu["segments"]["cs"]["selector"]) & 3, 3, "{vcpu}");
    }
    let devices = state["devices"].as_array().unwrap();
    let named = |name: &str| devices.iter().find(|device| device["instance"] == name);
    assert!(named("com1").is_some(), "{state}");
    let virtio = &named("rng0").unwrap_or_else(|| panic!("{state}"))["virtio"];
    assert_eq!(
        (&virtio["device_type"], &virtio["queues"][0]["ready"]),
        (&4.into(), &false.into())
    );

    let pool = host.json(&["inspect"]);
    assert_eq!(pool["inodes"][0]["snapshot"], "base");
    assert_eq!(
        pool["superblocks"].as_array().map(Vec::len),
        Some(2),
        "{pool}"
    );
    let text = host.run(&["inspect", "base"]).ok().stdout;
    assert!(text.contains("      rip: 0x"), "{text}");
    host.run(&["inspect", "none"]).refused(3, "none");
    host.assert_pool_clean();
}
