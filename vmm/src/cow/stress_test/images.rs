//! Process images in the random life: frames of guests that run go into them, and come back behind
//! frames of any guest.

use std::collections::BTreeSet;

use nvvmm_protocol::{FrameRun, Frames};

use super::*;
use crate::process::{Capturing, Kept, Placing, ProcessError, SavedProcess};

const IMAGES_MAX: usize = 4;
/// Words lie at an offset that depends on the frame: a page may go to frames that have them at the
/// same.
const SAME_OFFSETS: u64 = 200;

/// For each page the frame it came from, and what is in it.
pub(super) type Pages = Vec<(u64, [u64; WORDS as usize])>;

fn run_of(frame: u64, page: u64) -> FrameRun {
    FrameRun {
        gfn: frame,
        pages: 1,
        image_page: page,
    }
}

fn frame_of(gfn: u64) -> Frames {
    Frames { gfn, count: 1 }
}

fn is_full(error: &ProcessError) -> bool {
    match error {
        ProcessError::Cow(CowError::NoSpace(_)) => true,
        ProcessError::Pool(PoolError::PoolFull { .. } | PoolError::TooManyPins { .. }) => true,
        ProcessError::Pool(_) | ProcessError::Cow(_) => false,
        other => panic!("{other}"),
    }
}

impl<E: Playable> Guest<E> {
    fn content(&self, frame: u64) -> [u64; WORDS as usize] {
        std::array::from_fn(|which| self.model[word(frame, which as u64)].load(Ordering::Relaxed))
    }

    fn commit(
        &self,
        capturing: &mut Capturing,
        name: &str,
        pages: u64,
    ) -> Result<Kept, ProcessError> {
        let process = SavedProcess {
            image: b"process".to_vec(),
        };
        capturing.commit(name, pages, &process, &*self.vm.engine, &self.vm.holder)
    }

    /// Puts one page behind one frame.
    fn place(
        &self,
        placing: &mut Placing,
        run: FrameRun,
        page: &[u64; WORDS as usize],
    ) -> Result<(), ProcessError> {
        placing.place(&[run], &*self.vm.engine, self.vm.holder.pool())?;
        for (which, value) in page.iter().enumerate() {
            self.model[word(run.gfn, which as u64)].store(*value, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl<E: Playable> Fixture<E> {
    /// Some frames of a guest, in two rounds of which the second names some again, and pages that
    /// have moved. The guest writes to them once they are taken.
    pub(super) fn capture(&mut self) {
        while self.images.len() >= IMAGES_MAX {
            self.remove_image();
        }
        let name = self.fresh_name();
        let comes_to_nothing = self.random.below(4) == 0;
        self.log
            .push(format!("capture {name} ({comes_to_nothing})"));
        self.with(|fixture, guest| {
            let mut capturing = Capturing::default();
            let mut pages = Pages::new();
            let (engine, holder) = (&*guest.vm.engine, &guest.vm.holder);
            for round in 0..2 {
                let start = fixture.random.below(VM_FRAMES);
                let frames: Vec<u64> = (0..1 + fixture.random.below(300))
                    .map(|nth| (start + nth * (1 + round)) % VM_FRAMES)
                    .collect();
                let frames: BTreeSet<u64> = frames.into_iter().collect();
                let mut runs = Vec::new();
                for frame in frames {
                    let moves = !pages.is_empty() && fixture.random.below(4) == 0;
                    let page = if moves {
                        fixture.random.below(pages.len() as u64)
                    } else {
                        pages.len() as u64
                    };
                    runs.push(run_of(frame, page));
                    let content = (frame, guest.content(frame));
                    match pages.get_mut(page as usize) {
                        Some(page) => *page = content,
                        None => pages.push(content),
                    }
                }
                if fixture.random.below(2) == 0 {
                    let ahead: Vec<Frames> = runs.iter().map(|run| frame_of(run.gfn)).collect();
                    if let Err(error) = capturing.give_ahead(&ahead, engine) {
                        assert!(is_full(&error), "{error}");
                        return capturing.roll_back(engine, holder);
                    }
                    let mut random = Random(fixture.random.next());
                    fixture.act(guest, |guest| guest.burst(&mut random, |_| true));
                    for run in &runs {
                        pages[run.image_page as usize] = (run.gfn, guest.content(run.gfn));
                    }
                }
                if let Err(error) = capturing.take(&runs, engine, holder) {
                    assert!(is_full(&error), "{error}");
                    return capturing.roll_back(engine, holder);
                }
                let mut random = Random(fixture.random.next());
                fixture.act(guest, |guest| guest.burst(&mut random, |_| true));
            }
            if comes_to_nothing {
                return capturing.roll_back(engine, holder);
            }
            match guest.commit(&mut capturing, &name, pages.len() as u64) {
                Ok(_) => _ = fixture.images.insert(name, pages),
                Err(error) => {
                    assert!(is_full(&error), "{error}");
                    capturing.roll_back(engine, holder);
                }
            }
        });
    }

    fn pick_image(&mut self) -> Option<String> {
        let count = self.images.len() as u64;
        let at = (count > 0).then(|| self.random.below(count) as usize)?;
        self.images.keys().nth(at).cloned()
    }

    pub(super) fn remove_image(&mut self) -> bool {
        let Some(name) = self.pick_image() else {
            return false;
        };
        self.log.push(format!("remove image {name}"));
        self.pool.remove(&name).unwrap();
        self.images.remove(&name);
        true
    }

    /// The pages of an image go behind frames of a guest; each frame gets one.
    pub(super) fn place(&mut self) {
        let Some(name) = self.pick_image() else {
            return;
        };
        let pages = self.images[&name].clone();
        self.log.push(format!("place {name}"));
        self.with(|fixture, guest| {
            let pinned = guest.vm.holder.pin(&name);
            let Ok((_, frames)) = pinned else { return };
            let mut placing = Placing::new(frames, pages.len() as u64);
            let mut random = Random(fixture.random.next());
            fixture.act(guest, |guest| {
                let mut used = BTreeSet::new();
                for (page, (from, content)) in pages.iter().enumerate() {
                    let places = (VM_FRAMES - from % SAME_OFFSETS).div_ceil(SAME_OFFSETS);
                    let frame = from % SAME_OFFSETS + SAME_OFFSETS * random.below(places);
                    if !used.insert(frame) {
                        continue;
                    }
                    if let Err(error) =
                        guest.place(&mut placing, run_of(frame, page as u64), content)
                    {
                        assert!(is_full(&error), "{error}");
                        return;
                    }
                }
            });
        });
    }

    /// Every image holds what it did when it was captured, whatever has become of all VMs.
    pub(super) fn check_images(&mut self) {
        for (name, pages) in std::mem::take(&mut self.images) {
            let model = vec![0; (VM_FRAMES * WORDS) as usize];
            let guest = Guest::new(Vm::<E>::start(&self.pool, VM_BYTES, None), &model);
            let (_, frames) = guest.vm.holder.pin(&name).unwrap();
            let mut placing = Placing::new(frames, pages.len() as u64 * 2);
            for (page, (from, content)) in pages.iter().enumerate() {
                guest
                    .place(&mut placing, run_of(*from, page as u64), content)
                    .unwrap();
                guest.check(*from);
            }
            drop(guest);
            self.pool.remove(&name).unwrap();
        }
    }
}
