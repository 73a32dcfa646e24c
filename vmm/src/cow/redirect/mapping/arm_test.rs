use super::*;

const FRAME: usize = 4096;

fn stretch(first: usize, frames: usize, block: usize) -> Stretch {
    Stretch {
        addresses: first * FRAME..(first + frames) * FRAME,
        pool_offset: block * FRAME,
        private: false,
    }
}

#[test]
fn neighbours_become_one_whatever_is_behind_them_where_calls_may_cross_mappings() {
    let mut one = stretch(0, 16, 100);
    assert!(one.try_append(&stretch(16, 4, 7), Reach::Neighbours));
    assert!(one.try_append(&stretch(20, 512, 4000), Reach::Neighbours));
    assert_eq!(one, stretch(0, 532, 100));
}

#[test]
fn elsewhere_only_what_goes_on_in_the_pool_too() {
    let mut one = stretch(8, 16, 100);
    assert!(one.try_append(&stretch(24, 4, 116), Reach::OneMapping));
    assert!(!one.try_append(&stretch(28, 4, 121), Reach::OneMapping));
    let private = Stretch {
        private: true,
        ..stretch(28, 4, 120)
    };
    assert!(!one.try_append(&private, Reach::OneMapping));
    assert_eq!(one, stretch(8, 20, 100));
}

#[test]
fn what_lies_apart_stays_apart() {
    let mut one = stretch(0, 16, 100);
    assert!(!one.try_append(&stretch(17, 4, 117), Reach::Neighbours));
    assert!(!one.try_append(&stretch(17, 4, 117), Reach::OneMapping));
    assert!(!one.try_append(&stretch(16, 4, 116), Reach::Chunk));
    assert_eq!(one, stretch(0, 16, 100));
}

#[test]
fn a_range_is_halved_between_pages_of_the_medium() {
    assert_eq!(half_of(3 * FRAME, FRAME), Some(FRAME));
    assert_eq!(half_of(FRAME, FRAME), None);
    let huge = 512 * FRAME;
    assert_eq!(half_of(5 * huge, huge), Some(2 * huge));
    assert_eq!(half_of(2 * huge, huge), Some(huge));
    assert_eq!(half_of(huge, huge), None);
}
