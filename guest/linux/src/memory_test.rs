use super::*;

fn filled(pages: usize, parts: usize) -> Memory {
    Memory::fill(pages, 5, parts).unwrap()
}

#[test]
fn filled_memory_checks() {
    let findings = filled(100, 3).check();
    assert_eq!(findings.pages, 100);
    assert_eq!(findings.damaged_pages, 0);
    assert_eq!(findings.positions, [(1, 0), (1, 0), (1, 0)]);
}

#[test]
fn rewriting_moves_the_cursors_by_exactly_that_many_pages_and_wraps() {
    let memory = filled(10, 1);
    memory.rewrite(7);
    assert_eq!(memory.check().positions, [(1, 7)]);
    memory.rewrite(5);
    let findings = memory.check();
    assert_eq!(findings.positions, [(2, 2)]);
    assert_eq!(findings.damaged_pages, 0);
}

#[test]
fn equal_positions_have_equal_fingerprints_and_others_do_not() {
    let (a, b) = (filled(20, 2), filled(20, 2));
    assert_eq!(a.check().fingerprint, b.check().fingerprint);
    a.rewrite(2);
    assert_ne!(a.check().fingerprint, b.check().fingerprint);
}

#[test]
fn a_page_from_a_later_instant_is_found_by_check() {
    let memory = filled(10, 1);
    memory.rewrite(3);
    let later = Label {
        seed: 5,
        index: 6,
        epoch: 1,
    };
    memory.part(0).pages[6].write(later);
    let findings = memory.check();
    assert_eq!(findings.damaged_pages, 1);
    let damage = findings.damage.unwrap();
    assert!(
        damage.starts_with("page=6 epoch=0 when=check found=foreign"),
        "{damage}"
    );
}

#[test]
fn a_stale_page_is_found_by_the_writer_before_it_is_overwritten() {
    let memory = filled(10, 1);
    memory.rewrite(10);
    memory.part(0).pages[2].write(Label {
        seed: 5,
        index: 2,
        epoch: 0,
    });
    memory.rewrite(5);
    let findings = memory.check();
    assert_eq!(
        findings.damaged_pages, 1,
        "the page is right again, but the damage is remembered"
    );
    assert!(findings.damage.unwrap().contains("when=before-write"));
}

#[test]
fn writers_write_while_it_is_checked() {
    let memory = filled(256, 2);
    memory.start_writing(None).unwrap();
    while memory.check().positions.iter().any(|(epoch, _)| *epoch < 3) {
        std::thread::yield_now();
    }
    memory.stop_writing();
    assert_eq!(memory.check().damaged_pages, 0);
}

#[test]
fn too_much_memory_is_refused() {
    assert!(Memory::fill(usize::MAX / PAGE_SIZE_BYTES, 1, 1).is_err());
}
