//! VMs that go back to snapshots of theirs and of others.

use super::*;

impl<E: Playable> Fixture<E> {
    pub(super) fn rewind(&mut self) {
        let Some(name) = self.pick_snapshot() else {
            return;
        };
        self.log.push(format!("rewind to {name}"));
        self.with(|fixture, guest| {
            guest.vm.rewind(&name).unwrap();
            for (now, then) in guest.model.iter().zip(&fixture.snapshots[&name]) {
                now.store(*then, Ordering::Relaxed);
            }
            let counters = guest.vm.engine.counters_now(&guest.vm.log).unwrap();
            assert_eq!((counters.frames_own, counters.frames_copied), (0, 0));
            if fixture.random.below(2) == 0 {
                guest.vm.engine.free_replaced();
            }
        });
    }
}
