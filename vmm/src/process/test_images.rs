//! Processes whose frames go through images, for tests over real pools.

use std::sync::Arc;

use nvvmm_protocol::FrameRun;
use nvvmm_snapshot::Pool;

use super::*;
use crate::cow::{
    RedirectEngine,
    test_guest::{FRAME, MIB, Playable, PoolFile, Vm, pool_of},
};

pub(super) const SIZE: u64 = 16 * MIB;
pub(super) const FRAMES: u64 = SIZE / FRAME;

pub(super) fn run(gfn: u64, pages: u32, image_page: u64) -> FrameRun {
    FrameRun {
        gfn,
        pages,
        image_page,
    }
}

pub(super) fn saved() -> SavedProcess {
    SavedProcess {
        image: b"threads and files".to_vec(),
    }
}

pub(super) fn commit<E: Playable>(
    capturing: &mut Capturing,
    vm: &Vm<E>,
    name: &str,
    pages: u64,
) -> Result<Kept, ProcessError> {
    capturing.commit(name, pages, &saved(), &*vm.engine, &vm.holder)
}

pub(super) fn capture<E: Playable>(vm: &Vm<E>, name: &str, runs: &[FrameRun]) -> Kept {
    let mut capturing = Capturing::default();
    capturing.take(runs, &*vm.engine, &vm.holder).unwrap();
    let pages = runs
        .iter()
        .map(|run| run.image_page + u64::from(run.pages))
        .max()
        .unwrap();
    commit(&mut capturing, vm, name, pages).unwrap()
}

pub(super) fn placing<E: Playable>(vm: &Vm<E>, name: &str) -> Placing {
    let (entry, frames) = vm.holder.pin(name).unwrap();
    Placing::new(frames, entry.memory_bytes / FRAME)
}

pub(super) fn redirected(name: &str) -> (PoolFile, Arc<Pool>, Vm<RedirectEngine>) {
    let place = PoolFile::new(name);
    let pool = pool_of(&place, 128 * MIB);
    let vm = Vm::start(&pool, SIZE, None);
    vm.fill(0..512, 1);
    (place, pool, vm)
}

pub(super) fn assert_invalid<T: std::fmt::Debug>(outcome: Result<T, ProcessError>, what: &str) {
    match outcome {
        Err(ProcessError::Invalid(message)) if message.contains(what) => {}
        other => panic!("{other:?}"),
    }
}
