use super::*;
use crate::cow::frames::set_of;

/// Plays epochs of a guest that writes `writes` in each, every frame that was not copied ahead by a
/// fault of its own. The faults of each epoch.
fn play(hot: &mut HotFrames, epochs: std::ops::Range<u64>, writes: &FrameSet) -> Vec<u32> {
    epochs
        .map(|epoch| {
            let ahead = hot.expected();
            hot.copied_ahead(&ahead);
            let faults = writes.minus(&ahead);
            hot.end_epoch(epoch, &ahead.union(writes));
            faults.count()
        })
        .collect()
}

#[test]
fn a_stable_working_set_faults_in_few_epochs() {
    let mut hot = HotFrames::default();
    let writes = set_of(10..60);
    let faults = play(&mut hot, 1..500, &writes);
    assert_eq!(&faults[..5], [50, 50, 0, 50, 0], "the first epochs");
    let late: u32 = faults[200..].iter().sum();
    assert!(
        u64::from(late) * 50 < 300 * 50,
        "{late} faults in 300 epochs of 50 frames"
    );
    assert!(late > 0, "it is probed now and then");
}

#[test]
fn what_is_written_once_is_never_copied_ahead() {
    let mut hot = HotFrames::default();
    for epoch in 1..100 {
        assert!(hot.expected().is_empty());
        let frame = (epoch * 7 % 512) as u32;
        hot.end_epoch(epoch, &set_of([frame]));
    }
}

#[test]
fn what_is_written_in_every_other_epoch_is_never_copied_ahead() {
    let mut hot = HotFrames::default();
    for epoch in (1..100).step_by(2) {
        assert!(hot.expected().is_empty());
        hot.end_epoch(epoch, &FrameSet::FULL);
    }
}

#[test]
fn a_guest_that_stops_writing_is_found_out() {
    let mut hot = HotFrames::default();
    play(&mut hot, 1..1000, &set_of(0..100));
    let mut copies = Vec::new();
    for epoch in 1000..1200 {
        let ahead = hot.expected();
        copies.push(ahead.count());
        if ahead.is_empty() {
            break;
        }
        hot.copied_ahead(&ahead);
        hot.end_epoch(epoch, &ahead);
    }
    assert_eq!(copies.pop(), Some(0));
    assert!(copies.len() <= SPAN_MAX as usize, "{} copies", copies.len());
    // Nothing was written: the chunk is in no snapshot of that epoch.
    hot.end_epoch(5000, &set_of([1]));
    assert!(hot.expected().is_empty());
}

#[test]
fn a_working_set_that_moves_is_followed() {
    let mut hot = HotFrames::default();
    play(&mut hot, 1..40, &set_of(0..100));
    let faults = play(&mut hot, 40..300, &set_of(200..300));
    assert_eq!(&faults[..2], [100, 100]);
    assert_eq!(faults[2..4].iter().sum::<u32>() % 100, 0);
    let late: u32 = faults[150..].iter().sum();
    assert!(
        late < 110 * 100 / 20,
        "{late} faults in 110 epochs of 100 frames"
    );
    let copied: u32 = hot.expected().count();
    assert!(copied <= 100, "what it was before is forgotten: {copied}");
}
