use super::*;

#[test]
fn only_frames_that_are_all_shown_have_blocks() {
    let shown = ShownBlocks::new(100, vec![7, 9, 8]);
    let found = |gfn, frames| {
        let blocks = shown.in_frames(gfn, frames)?;
        Some(blocks.map(BlockNo::get).collect::<Vec<_>>())
    };
    assert_eq!(found(100, 3), Some(vec![7, 9, 8]));
    assert_eq!(found(102, 1), Some(vec![8]));
    for (gfn, frames) in [
        (99, 1),
        (99, 2),
        (102, 2),
        (103, 1),
        (0, u32::MAX),
        (u64::MAX, u32::MAX),
    ] {
        assert_eq!(found(gfn, frames), None, "{gfn} {frames}");
    }
}
