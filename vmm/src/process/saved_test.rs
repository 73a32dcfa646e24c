use super::{test_images::saved, *};

#[test]
fn a_state_blob_of_a_process_is_one_and_no_other() {
    let blob = saved().encode();
    assert_eq!(SavedProcess::decode(&blob).unwrap(), saved());
    // All but what is reserved.
    for at in (0..blob.len()).filter(|at| !(28..32).contains(at)) {
        let mut damaged = blob.clone();
        damaged[at] ^= 1;
        assert!(SavedProcess::decode(&damaged).is_err(), "byte {at}");
        assert!(SavedProcess::decode(&blob[..at]).is_err(), "cut at {at}");
    }
    crate::checkpoint::blob::SavedVm::decode(&blob).unwrap_err();
}
