use super::*;
extern crate std;
use std::collections::BTreeMap;
use std::vec::Vec;

const FIRST: u64 = 0x300;
const FRAMES: u64 = 101;
const VCPUS: u64 = 2;

/// Guest memory with a state of `pace` in it.
struct Words(BTreeMap<u64, u64>);

impl Memory for Words {
    fn word(&self, gpa: u64) -> u64 {
        self.0.get(&gpa).copied().unwrap_or(0)
    }
}

fn walked(walk: Walk, done: [u64; 2]) -> Words {
    let mut words = BTreeMap::new();
    let mut put = |offset: usize, word| words.insert(PACE_GPA + offset as u64, word);
    put(offset_of!(Pace, magic), MAGIC);
    put(offset_of!(Pace, vcpus), VCPUS);
    put(offset_of!(Pace, first_gfn), FIRST);
    put(offset_of!(Pace, frames), FRAMES);
    put(offset_of!(Pace, walk), walk.code());
    for (vcpu, done) in done.into_iter().enumerate() {
        put(
            offset_of!(Pace, steps) + vcpu * size_of::<Steps>() + offset_of!(Steps, done),
            done,
        );
    }
    for (vcpu, done) in done.into_iter().enumerate() {
        let lane = LaneWalk::new(walk, (vcpu as u64, VCPUS), FIRST, FRAMES);
        for n in 0..done {
            let gfn = lane.gfn(n);
            words.insert(gfn * FRAME_BYTES, word(gfn, n / lane.len));
        }
    }
    Words(words)
}

fn both(memory: &Words) -> Result<u64, Mismatch> {
    Ok(lane(memory, 0)? + lane(memory, 1)?)
}

const WRITES: [Walk; 2] = [Walk::from_code(2), Walk::from_code(3)];

#[test]
fn a_walk_visits_each_frame_once_in_a_pass() {
    for walk in WRITES {
        let mut gfns: Vec<u64> = (0..VCPUS)
            .flat_map(|vcpu| {
                let lane = LaneWalk::new(walk, (vcpu, VCPUS), FIRST, FRAMES);
                (0..lane.len).map(move |n| lane.gfn(n))
            })
            .collect();
        gfns.sort_unstable();
        assert_eq!(gfns, (FIRST..FIRST + FRAMES).collect::<Vec<_>>());
    }
}

#[test]
fn memory_of_any_instant_verifies() {
    for walk in WRITES {
        assert_eq!(both(&walked(walk, [300, 444])), Ok(FRAMES));
        assert_eq!(both(&walked(walk, [51, 50])), Ok(FRAMES));
        // In the first pass only the frames that were written are known.
        assert_eq!(both(&walked(walk, [7, 9])), Ok(16));
    }
}

#[test]
fn a_write_under_way_may_be_there() {
    let walk = WRITES[1];
    let mut memory = walked(walk, [60, 60]);
    let lane = LaneWalk::new(walk, (0, VCPUS), FIRST, FRAMES);
    let gfn = lane.gfn(60);
    memory.0.insert(gfn * FRAME_BYTES, word(gfn, 60 / lane.len));
    assert_eq!(both(&memory), Ok(FRAMES));
}

#[test]
fn a_lost_write_and_one_of_the_future_are_found() {
    for walk in WRITES {
        let lane = LaneWalk::new(walk, (0, VCPUS), FIRST, FRAMES);
        let found = |n: u64, pass: u64| {
            let mut memory = walked(walk, [60, 60]);
            let gfn = lane.gfn(n);
            memory.0.insert(gfn * FRAME_BYTES, word(gfn, pass));
            both(&memory).map_err(|mismatch| (mismatch.gfn == gfn, mismatch.what))
        };
        assert_eq!(found(58, 0), Err((true, What::Stale)));
        assert_eq!(found(62, 1), Err((true, What::Future)));
        assert_eq!(found(58, 9), Err((true, What::Torn)));
    }
}

#[test]
fn a_state_without_writes_cannot_be_verified() {
    assert!(both(&walked(Walk::from_code(0), [60, 60])).is_err());
    assert!(lane(&Words(BTreeMap::new()), 0).is_err());
}

#[test]
fn the_log_has_sixteen_passes_at_least() {
    for len in [1, 2, 2047, 2048, 2049, 131_072, 1 << 20, 1_234_567] {
        assert!(16 * len / granule(len) <= LOG_LEN as u64, "{len}");
        assert!(granule(len).is_power_of_two());
    }
}

#[test]
fn gaps_above_the_limit_are_kept() {
    let pace = Pace::new();
    for n in 0..GAPS_KEPT as u64 + 1 {
        pace.keep(100 + n, n);
    }
    assert_eq!(
        pace.gaps[0].length.load(Ordering::Relaxed),
        GAPS_KEPT as u64
    );
    assert_eq!(pace.gaps[1].length.load(Ordering::Relaxed), 1);
    pace.reset();
    assert_eq!(pace.gaps_count.load(Ordering::Relaxed), 0);
}
