//! A debugger reads the core of a Linux guest.

use std::{fs::File, io::Read, process::Command};

use nvvmm_tests::Host;

/// Bytes of each name in `struct new_utsname` (linux/utsname.h). The system's name is the first,
/// the release is the third.
const UTS_NAME_BYTES: u64 = 65;

/// Fails the test unless a core of the snapshot has the `uname` data of the guest's kernel. Its
/// virtual address is in VMCOREINFO, which is a note of the core.
pub fn assert_shows_the_kernel(host: &Host, snapshot: &str) {
    let core = host.runtime().join("linux.core");
    let report = host.json(&["export", snapshot, "--core", core.to_str().unwrap()]);
    let mut front = Vec::new();
    File::open(&core)
        .unwrap()
        .take(8 << 20)
        .read_to_end(&mut front)
        .unwrap();
    let front = String::from_utf8_lossy(&front);
    let note = &front[front.find("VMCOREINFO\0").expect("the note is in front")..];
    let said = |key: &str| {
        let line = note.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("{key} in VMCOREINFO"))
    };
    let symbol = u64::from_str_radix(said("SYMBOL(init_uts_ns)="), 16).unwrap();
    let names = symbol + said("OFFSET(uts_namespace.name)=").parse::<u64>().unwrap();
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-core"]).arg(&core);
    for address in [names, names + 2 * UTS_NAME_BYTES] {
        gdb.args(["-ex", &format!("x/s {address:#x}")]);
    }
    let shown = gdb.output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout);
    println!("{shown}");
    let release = report["linux"].as_str().expect("it is Linux");
    assert!(shown.contains("\"Linux\""), "{shown}");
    assert!(
        shown.contains(&format!("\"{release}\"")),
        "{release} in {shown}"
    );
    std::fs::remove_file(core).unwrap();
}
