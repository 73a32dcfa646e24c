//! VMs whose guests say that they do not use memory.

use super::*;

const CHUNKS: u64 = VM_FRAMES / CHUNK_FRAMES as u64;

impl<E: Playable> Fixture<E> {
    pub(super) fn release(&mut self) {
        self.with(|fixture, guest| fixture.release_of(guest));
    }

    /// The guest gives up some chunks, and finds zeroes there.
    pub(super) fn release_of(&mut self, guest: &Guest<E>) {
        for _ in 0..1 + self.random.below(2) {
            let chunk = self.random.below(CHUNKS);
            let frames = u64::from(CHUNK_FRAMES);
            let frames = chunk * frames..(chunk + 1) * frames;
            self.log.push(format!("release {chunk}"));
            guest
                .vm
                .engine
                .release(ChunkIndex::new(chunk as u32))
                .unwrap();
            let words = word(frames.start, 0)..word(frames.end, 0);
            let model = &guest.model[words];
            model
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
            if self.random.below(3) == 0 {
                let at = frames.start + self.random.below(u64::from(CHUNK_FRAMES));
                self.act(guest, |guest| guest.check(at));
            }
        }
    }
}
