use super::*;

const OLD: Stamp = Stamp {
    gfn: 335,
    writer: 1,
    vcpus: 2,
    kind: Kind::Churn,
    seq: 41,
    seed: 9,
};

fn content(stamp: Stamp, nonce: u64, link: u64) -> [u64; FRAME_WORDS] {
    let content = Content::new(stamp, Token::new(stamp.seq, nonce), Token::new(link, 3));
    core::array::from_fn(|i| content.word(i))
}

fn check(stamp: Stamp, frame: &[u64; FRAME_WORDS]) -> Result<(), (usize, What)> {
    let mut checker = FrameChecker::new(stamp);
    (0..FRAME_WORDS).try_for_each(|i| checker.word(i, frame[i]).map_err(|what| (i, what)))
}

#[test]
fn the_very_write_is_accepted_with_any_nonce_and_link() {
    for nonce in [0, 1, 0xff_ffff] {
        assert_eq!(check(OLD, &content(OLD, nonce, nonce * 7)), Ok(()));
    }
}

#[test]
fn every_other_write_is_named() {
    let cases = [
        (Stamp { seq: 40, ..OLD }, What::Stale),
        (Stamp { seq: 42, ..OLD }, What::Future),
        (Stamp { gfn: 336, ..OLD }, What::Foreign),
        (Stamp { writer: 0, ..OLD }, What::Writer),
        (Stamp { seed: 10, ..OLD }, What::Seed),
        (
            Stamp {
                kind: Kind::Fill,
                seq: 0,
                ..OLD
            },
            What::Stale,
        ),
    ];
    for (found, what) in cases {
        assert_eq!(
            check(OLD, &content(found, 5, 5)).map_err(|e| e.1),
            Err(what),
            "{found:?}"
        );
    }
    let filled = Stamp {
        kind: Kind::Fill,
        seq: 0,
        ..OLD
    };
    assert_eq!(check(filled, &content(OLD, 5, 5)), Err((2, What::Future)));
    assert_eq!(check(OLD, &[0; FRAME_WORDS]), Err((0, What::Zero)));
    assert_eq!(check(OLD, &[1; FRAME_WORDS]), Err((0, What::Magic)));
}

#[test]
fn every_single_bit_matters() {
    let good = content(OLD, 5, 6);
    for index in 0..FRAME_WORDS {
        for bit in [0, 17, 23, 24, 63] {
            let mut bad = good;
            bad[index] ^= 1 << bit;
            assert!(check(OLD, &bad).is_err(), "word {index} bit {bit}");
        }
    }
}

#[test]
fn a_frame_of_two_writes_is_torn_wherever_it_is_cut() {
    let (old, same_number) = (content(OLD, 5, 6), content(OLD, 77, 6));
    for cut in 4..FRAME_WORDS {
        let mut torn = same_number;
        torn[cut..].copy_from_slice(&old[cut..]);
        assert!(check(OLD, &torn).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_write_under_way_is_a_prefix_and_nothing_else() {
    let next = Stamp { seq: 99, ..OLD };
    let fill = Stamp {
        kind: Kind::Fill,
        seq: 0,
        ..OLD
    };
    let new = Content::new(next, Token::new(99, 8), Token::new(12, 1));
    let fill_words = {
        let content = Content::new(fill, Token::new(0, 0), Token(0));
        core::array::from_fn(|i| content.word(i))
    };
    for (stamp, old) in [(OLD, content(OLD, 5, 6)), (fill, fill_words)] {
        for cut in 0..=FRAME_WORDS {
            let prefix: [u64; FRAME_WORDS] =
                core::array::from_fn(|i| if i < cut { new.word(i) } else { old[i] });
            let done = check_under_way(|i| prefix[i], stamp, &new);
            assert!(done.is_ok_and(|done| done >= cut), "cut at {cut}: {done:?}");
            // A later word of the new write that is there already, and an old one that is missing
            // before the cut.
            if cut + 9 < FRAME_WORDS {
                let mut early = prefix;
                early[cut + 9] = new.word(cut + 9);
                let differs = early != prefix;
                assert_eq!(
                    check_under_way(|i| early[i], stamp, &new).is_err(),
                    differs,
                    "early, cut at {cut}"
                );
            }
            if cut > 20 {
                let mut lost = prefix;
                lost[cut - 12] = old[cut - 12];
                assert!(
                    check_under_way(|i| lost[i], stamp, &new).is_err(),
                    "lost, cut at {cut}"
                );
            }
        }
    }
}
