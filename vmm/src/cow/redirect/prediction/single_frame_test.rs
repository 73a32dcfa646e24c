use super::*;

/// An epoch in which the guest writes `frames`: clusters are of four frames. Its faults, and the
/// frames they copied.
fn epoch(single: &mut SingleFrame, frames: &[u32]) -> (u32, u32) {
    let (mut own, mut faults) = (Vec::new(), 0);
    for frame in frames {
        if own.contains(frame) {
            continue;
        }
        faults += 1;
        if single.is_expected(FrameIndex::new(*frame)) {
            own.push(*frame);
        } else {
            let start = frame & !3;
            own.extend(
                (start..start + 4)
                    .filter(|other| !own.contains(other))
                    .collect::<Vec<_>>(),
            );
        }
    }
    single.end_epoch();
    (faults, own.len() as u32)
}

#[test]
fn a_frame_that_is_asingle_again_is_copied_asingle() {
    let mut single = SingleFrame::default();
    assert_eq!(epoch(&mut single, &[9]), (1, 4), "nothing is known yet");
    for _ in 0..5 {
        assert_eq!(epoch(&mut single, &[9]), (1, 1));
        assert_eq!(
            epoch(&mut single, &[]),
            (0, 0),
            "an epoch without faults tells nothing"
        );
    }
    assert_eq!(epoch(&mut single, &[5]), (1, 4), "another frame");
    assert_eq!(epoch(&mut single, &[5]), (1, 1));
}

#[test]
fn several_faults_are_not_asingle() {
    let mut single = SingleFrame::default();
    for _ in 0..10 {
        assert_eq!(epoch(&mut single, &[1, 9]), (2, 8));
    }
}

#[test]
fn a_cluster_that_is_written_as_a_whole_seldom_costs_a_second_fault() {
    let mut single = SingleFrame::default();
    let faults: Vec<u32> = (0..400)
        .map(|_| epoch(&mut single, &[4, 5, 6, 7]).0)
        .collect();
    assert_eq!(
        &faults[..8],
        [1, 2, 1, 2, 1, 1, 1, 1],
        "wrong guesses, less and less often"
    );
    let guesses = faults.iter().filter(|faults| **faults == 2).count();
    assert!((3..=10).contains(&guesses), "{guesses} in 400 epochs");
    // When it is one frame from now on, that is found out.
    let last: Vec<u32> = (0..200).map(|_| epoch(&mut single, &[4]).1).collect();
    assert_eq!(last[199], 1);
}
