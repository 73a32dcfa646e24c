use super::*;

const LABEL: Label = Label {
    seed: 7,
    index: 41,
    epoch: 3,
};

#[test]
fn a_written_page_checks() {
    let mut page = Page::EMPTY;
    page.write(LABEL);
    assert_eq!(page.check(LABEL), Ok(()));
}

#[test]
fn an_empty_page_is_told() {
    assert_eq!(Page::EMPTY.check(LABEL), Err(Mismatch::Empty));
}

#[test]
fn a_page_of_another_epoch_index_or_seed_names_itself() {
    for other in [
        Label { epoch: 4, ..LABEL },
        Label { index: 40, ..LABEL },
        Label { seed: 8, ..LABEL },
    ] {
        let mut page = Page::EMPTY;
        page.write(other);
        assert_eq!(page.check(LABEL), Err(Mismatch::Foreign(other)));
    }
}

#[test]
fn any_single_flipped_bit_is_found_where_it_is() {
    for word in 0..WORDS {
        let mut page = Page::EMPTY;
        page.write(LABEL);
        page.0[word] ^= 1 << (word % 64);
        assert_eq!(page.check(LABEL), Err(Mismatch::Torn { word, wrong: 1 }));
    }
}

#[test]
fn a_page_cut_between_two_epochs_is_torn() {
    let mut page = Page::EMPTY;
    page.write(LABEL);
    let mut next = Page::EMPTY;
    next.write(Label { epoch: 4, ..LABEL });
    page.0[..100].copy_from_slice(&next.0[..100]);
    let Err(Mismatch::Torn { word, wrong }) = page.check(LABEL) else {
        panic!("not torn")
    };
    assert_eq!(word, 3, "the epoch is the first word that differs");
    assert_eq!(wrong, 97, "every word behind it differs too");
}

#[test]
fn words_of_neighbouring_pages_do_not_collide() {
    let mut seen = std::collections::HashSet::new();
    for index in 0..64 {
        for epoch in 0..4 {
            let label = Label {
                seed: 1,
                index,
                epoch,
            };
            assert!(
                label
                    .words()
                    .skip(HEADER_WORDS)
                    .all(|word| seen.insert(word))
            );
        }
    }
}
