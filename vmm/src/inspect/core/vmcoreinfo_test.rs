use nvvmm_snapshot::SnapshotKind;

use super::*;
use crate::inspect::core::notes::add;
use crate::inspect::test_memory::taken_with;

const CODE: u64 = 0xffff_ffff_8100_0000;

fn text(release: &str, code: u64, bytes: usize) -> String {
    let text = format!("OSRELEASE={release}\nPAGESIZE=4096\nSYMBOL(_stext)={code:x}\n");
    format!("{text:#<bytes$}")
}

/// The pages of a note with this name and text.
fn pages(name: &str, text: &str) -> Vec<[u8; 4096]> {
    let mut note = Vec::new();
    add(&mut note, name, 0, text.as_bytes());
    note.resize(note.len().next_multiple_of(4096), 0);
    note.chunks(4096)
        .map(|page| page.try_into().unwrap())
        .collect()
}

/// Finds the note in memory that begins with these pages, where the kernel's code is mapped.
fn found(notes: &[Vec<[u8; 4096]>]) -> Option<String> {
    let frames: Vec<_> = (0..)
        .zip(notes.concat())
        .map(|(n, page)| (0, n, page))
        .collect();
    let (_directory, memory) = taken_with(SnapshotKind::Vm, 16 << 20, &frames);
    let code = Mapped {
        virt: CODE - 4096,
        phys: 0,
        bytes: 8192,
    };
    let mut looked = 0;
    let found = find(&memory.unwrap(), &[code], &mut |done| looked = done).unwrap();
    assert!(looked <= frames.len() as u64 * 4096);
    found.map(|text| String::from_utf8(text).unwrap())
}

#[test]
fn the_kernel_that_runs_is_found_and_not_what_looks_like_one() {
    let runs = text("6.1.0-49-cloud-amd64", CODE, 4096);
    let other_name = pages("VMCOREINFX", &text("1", CODE, 100));
    let not_linux = pages(NAME, "OTHER=1");
    let too_long = pages(NAME, &text("2", CODE, 4097));
    let earlier = text("5.10", CODE + (1 << 21), 200);
    let nothing = [other_name, not_linux, too_long];
    assert_eq!(found(&nothing), None);
    let [earlier_pages, running_pages] = [&earlier, &runs].map(|text| pages(NAME, text));
    assert_eq!(running_pages.len(), 2);
    let all = [&nothing[..], &[earlier_pages, running_pages]].concat();
    assert_eq!(found(&all).as_deref(), Some(&*runs));
    assert_eq!(found(&all[..4]).as_deref(), Some(&*earlier));
    assert_eq!(release(runs.as_bytes()), "6.1.0-49-cloud-amd64");
}

#[test]
fn a_note_that_ends_with_memory_is_cut_off_and_a_text_without_lines_is_a_release() {
    let last = pages(NAME, &text("7", CODE, 4000));
    let (_directory, memory) = taken_with(SnapshotKind::Vm, 2 << 20, &[(0, 511, last[0])]);
    let mut ignored = |_| ();
    let found = find(&memory.unwrap(), &[], &mut ignored).unwrap().unwrap();
    assert_eq!((found.len(), release(&found)), (4000, "7".into()));
    assert_eq!(release(b"OSRELEASE=x\x1b"), "x\x1b");
}
