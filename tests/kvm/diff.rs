//! `nvvmm diff` lists the frames that the guest wrote, and no others.

use nvvmm_tests::{Host, Vm};

const MEMORY_MIB: u64 = 64;

/// The first frame of the memory that the guest writes to on command. The guest's own program is
/// below.
fn first_frame(vm: &mut Vm<'_>) -> u64 {
    let stat = vm.ask("stat");
    let (_, rest) = stat
        .split_once("first=")
        .unwrap_or_else(|| panic!("{stat}"));
    let first = rest.split(' ').next().and_then(|text| text.parse().ok());
    first.unwrap_or_else(|| panic!("{stat}"))
}

/// Frames that differ, without those of the guest's own program.
fn different(host: &Host, names: [&str; 2], first: u64) -> Vec<u64> {
    let report = host.json(&["diff", names[0], names[1]]);
    let ranges = report["different"].as_array().unwrap();
    let all: Vec<u64> = ranges
        .iter()
        .flat_map(|range| {
            let first = range["first_frame"].as_u64().unwrap();
            first..first + range["length_blocks"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(report["different_bytes"], all.len() * 4096, "{report}");
    all.into_iter().filter(|gfn| *gfn >= first).collect()
}

#[test]
fn what_differs_between_two_snapshots_is_what_the_guest_wrote() {
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(MEMORY_MIB, 1);
    let first = first_frame(&mut vm);
    vm.snapshot("empty");
    vm.ask("fill 32 1");
    vm.snapshot("a");
    vm.ask("write 3 40 37");
    vm.snapshot("b");
    let written: Vec<u64> = (0..40).map(|number| first + 3 + number * 37).collect();
    let filled: Vec<u64> = (first..first + (32 << 8)).collect();
    assert_eq!(different(&host, ["a", "b"], first), written);
    assert_eq!(different(&host, ["a", "empty"], first), filled);
    assert!(different(&host, ["b", "b"], 0).is_empty());
    let text = host.run(&["diff", "a", "b"]).ok().stdout;
    assert!(
        text.starts_with("GFN ") && text.contains("a and b: "),
        "{text}"
    );
    host.run(&["diff", "a", "none"]).refused(3, "none");
}
