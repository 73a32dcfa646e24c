//! `nvvmm export --core`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use nvvmm_bare_metal::verify;
use nvvmm_tests::{Host, required};
use serde_json::Value;

use super::{Bytes, frames_under_test};

const MIB: u64 = 1 << 20;
const PT_LOAD: u64 = 1;
/// A string that is in the guest's program, and nowhere else in its memory.
const KNOWN_STRING: &str = "check ok frames=";

/// A program header of an ELF file.
struct Segment {
    kind: u64,
    offset: u64,
    virt: u64,
    phys: u64,
    bytes: u64,
}

fn number_at(elf: &[u8], at: u64, bytes: usize) -> u64 {
    let mut word = [0; 8];
    word[..bytes].copy_from_slice(&elf[at as usize..][..bytes]);
    u64::from_le_bytes(word)
}

/// Program headers of an ELF file (elf(5)).
fn segments(elf: &[u8]) -> Vec<Segment> {
    assert_eq!(elf[..4], *b"\x7fELF");
    let (table, count) = (number_at(elf, 32, 8), number_at(elf, 56, 2));
    let segment = |number| {
        let at = table + number * 56;
        let word = |offset| number_at(elf, at + offset, 8);
        Segment {
            kind: number_at(elf, at, 4),
            offset: word(8),
            virt: word(16),
            phys: word(24),
            bytes: word(32),
        }
    };
    (0..count).map(segment).collect()
}

/// Address of the known string in the guest's program.
fn address_of_string() -> u64 {
    let program = fs::read(required("NVVMM_BAREMETAL_GUEST")).unwrap();
    let mut places = program.windows(KNOWN_STRING.len());
    let at = places
        .position(|bytes| bytes == KNOWN_STRING.as_bytes())
        .unwrap() as u64;
    let segments = segments(&program);
    let holds = |segment: &&Segment| {
        segment.kind == PT_LOAD && (segment.offset..segment.offset + segment.bytes).contains(&at)
    };
    let segment = segments.iter().find(holds).unwrap();
    segment.virt + (at - segment.offset)
}

/// Output of gdb without a program: it knows the core only.
fn gdb(core: &Path, commands: &[String]) -> String {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-core"]).arg(core);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let output = gdb.output().unwrap();
    println!("{gdb:?}\n{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

fn register(vcpu: &Value, name: &str) -> u64 {
    let text = vcpu["registers"][name].as_str().unwrap();
    u64::from_str_radix(&text[2..], 16).unwrap()
}

#[test]
fn a_core_has_the_guests_registers_and_memory() {
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(64, 2);
    let (first, frames) = frames_under_test(&mut vm);
    vm.ask("fill 16 1");
    let digest = vm.ask("digest all");
    let mapped = vm.snapshot("a")["mapped_bytes"].as_u64().unwrap();
    vm.stop();
    let core = host.runtime().join("a.core");
    let path = core.to_str().unwrap();
    let report = host.json(&["export", "a", "--core", path]);
    let bytes = fs::read(&core).unwrap();
    assert_eq!(report["size_bytes"], bytes.len());
    let taken = fs::metadata(&core).unwrap().blocks() * 512;
    assert!(
        (mapped..mapped + MIB).contains(&taken),
        "{taken} bytes for {mapped}"
    );

    // By physical address the core has all of RAM. The guest has mapped it one to one, in pages of
    // 2 MiB.
    let loads: Vec<Segment> = segments(&bytes)
        .into_iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .collect();
    let found: Vec<_> = loads
        .iter()
        .map(|load| (load.virt, load.phys, load.bytes))
        .collect();
    assert_eq!(found, [(0, 0, 64 * MIB), (0, 0, 64 * MIB)]);
    for load in &loads {
        let memory = Bytes(bytes[load.offset as usize..].to_vec());
        let shown = verify::digest(&memory, first, frames);
        assert!(digest.contains(&format!("{shown:016x}")), "{digest}");
    }
    let piped = host
        .command(&["export", "a", "--core", "-"])
        .output()
        .unwrap();
    assert!(
        piped.status.success() && piped.stdout == bytes,
        "{:?}",
        piped.status
    );

    host.run(&["export", "a", "--core", path])
        .refused(4, "exists");
    let again = host.run(&["export", "a", "--core", path, "--force"]);
    let text = again.ok().stdout;
    assert!(
        text.contains("a.core: ") && text.contains("1 range of it by virtual address"),
        "{text}"
    );
    let left: Vec<_> = fs::read_dir(host.runtime()).unwrap().flatten().collect();
    let cores = left
        .iter()
        .filter(|entry| entry.path().to_string_lossy().contains("core"));
    assert_eq!(cores.count(), 1, "{left:?}");
    host.run(&["export", "none", "--core", path, "-f"])
        .refused(3, "none");
    host.run(&["export", "a", "--core", "/dev/null"])
        .refused(2, "regular");
    host.assert_pool_clean();
}

#[test]
fn gdb_reads_a_core() {
    if Command::new("gdb").arg("--version").output().is_err() {
        println!("SKIPPED: gdb is not here");
        return;
    }
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(64, 2);
    vm.ask("fill 16 1");
    vm.snapshot("a");
    vm.stop();
    let core = host.runtime().join("a.core");
    host.run(&["export", "a", "--core", core.to_str().unwrap()])
        .ok();

    let registers = [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15", "rip",
    ];
    let address = address_of_string();
    let mut commands = vec!["info threads".to_owned(), format!("x/s {address:#x}")];
    for thread in 1..=2 {
        commands.push(format!("thread {thread}"));
        commands.extend(registers.map(|name| format!("printf \"@ {name} %lx\\n\", (long)${name}")));
    }
    commands.extend([
        "info registers rip cs ss".to_owned(),
        "x/2i $rip".to_owned(),
    ]);
    let said = gdb(&core, &commands);
    println!("{said}");
    assert!(
        said.contains(&format!("{address:#x}:\t\"{KNOWN_STRING}")),
        "{KNOWN_STRING:?} is at {address:#x}:\n{said}"
    );
    let told: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("@ "))
        .collect();
    let inspected = host.json(&["inspect", "a"]);
    let saved = inspected["saved_state"]["vcpus"].as_array().unwrap();
    let expected: Vec<String> = saved
        .iter()
        .flat_map(|vcpu| registers.map(|name| format!("{name} {:x}", register(vcpu, name))))
        .collect();
    assert_eq!(told, expected, "{said}");
}
