use super::*;

const AT_ONCE: Duration = Duration::ZERO;

#[test]
fn after_each_refusal_more_needs_are_passed_over() {
    let pages = HugePages::new();
    let asked = |refused: bool| {
        let asks = pages.may_ask();
        if asks {
            let answer = if refused {
                Err(Errno::EINVAL)
            } else {
                Ok(AT_ONCE)
            };
            assert_eq!(pages.make(0..CHUNK_SIZE_BYTES, || answer), !refused);
        }
        asks
    };
    let places: Vec<u32> = (0..400).filter(|_| asked(true)).collect();
    assert_eq!(places, [0, 17, 82, 339]);
    while !asked(false) {}
    assert!(asked(false) && asked(true), "the kernel is asked again");
    let places: Vec<u32> = (0..20).filter(|_| asked(true)).collect();
    assert_eq!(places, [16]);
    assert_eq!(pages.made(), 2);
}

#[test]
fn who_wants_no_huge_page_does_not_ask() {
    let pages = HugePages::new();
    pages.want(false);
    assert!(!pages.may_ask());
}

#[test]
fn a_chunk_is_forgotten_when_a_part_of_it_is_punched() {
    let pages = HugePages::new();
    let chunk = |number: u64| number * CHUNK_SIZE_BYTES;
    assert!(pages.make(chunk(2)..chunk(5), || Ok(AT_ONCE)));
    assert_eq!(pages.made(), 3);
    pages.forget(chunk(3) + 4096..chunk(3) + 8192);
    let known: Vec<u64> = (0..8).filter(|at| pages.is_known(chunk(*at))).collect();
    assert_eq!(known, [2, 4]);
    pages.forget(chunk(4)..chunk(5));
    assert!(pages.is_known(chunk(2)) && !pages.is_known(chunk(4)));
}

#[test]
fn after_a_slow_answer_needs_are_passed_over_though_the_page_is_there() {
    let pages = HugePages::new();
    assert!(pages.make(0..4 * CHUNK_SIZE_BYTES, || Ok(4 * SLOW)));
    assert_eq!(pages.at_once(8), 8);
    assert!(pages.make(0..4 * CHUNK_SIZE_BYTES, || Ok(4 * WORTH)));
    assert!(pages.may_ask(), "it was worth it");
    assert_eq!((pages.at_once(8), pages.at_once(0)), (1, 0));
    assert!(pages.make(0..4 * CHUNK_SIZE_BYTES, || Ok(5 * WORTH)));
    assert!(pages.is_known(3 * CHUNK_SIZE_BYTES) && !pages.may_ask());
    assert_eq!(pages.made(), 12);
}
