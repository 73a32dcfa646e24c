//! Random life of several VMs in one pool, checked against a model in memory of every VM and every
//! snapshot.
//!
//! `NVVMM_TEST_SEED` repeats a run, as far as threads allow.

use std::{
    collections::BTreeMap,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nvvmm_snapshot::{ChunkIndex, Error as PoolError, Holder, Pool};
use nvvmm_test_profile::SEED_VARIABLE;
use vm_memory::GuestAddress;

use super::{
    mount_test::Mount,
    test_guest::{
        FRAME, MIB, Playable, PoolFile, Vm, assert_clean, assert_hold_their_own, ballast, pool_of,
    },
    *,
};

mod images;
mod releases;
mod rewinds;

const VM_FRAMES: u64 = 2048;
const VM_BYTES: u64 = VM_FRAMES * FRAME;
/// Words of a frame that are written; others stay zero.
const WORDS: u64 = 2;
const VMS_MAX: usize = 3;
const SNAPSHOTS_MAX: usize = 6;
/// Three VMs, what they pin and what they set aside fit; with more snapshots than that the pool is
/// full.
const POOL_BYTES: u64 = 96 * MIB;
const STEPS: u64 = 160;
/// Checks of a guest that waits for space before somebody makes space, and before the test takes it
/// to wait for ever.
const WAITS_MIN: u32 = 100;
const WAITS_MAX: u32 = 100 * WAITS_MIN;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Content of memory, word by word.
type Model = Vec<u64>;

fn word(frame: u64, which: u64) -> usize {
    (frame * WORDS + which) as usize
}

fn address(frame: u64, which: u64) -> GuestAddress {
    GuestAddress(frame * FRAME + which * 2048 + 8 * (frame % 200))
}

struct Guest<E> {
    vm: Vm<E>,
    model: Vec<AtomicU64>,
    /// Read: a guest write and its note in the model. Write: the VM stands still.
    still: RwLock<()>,
}

impl<E: Playable> Guest<E> {
    fn new(vm: Vm<E>, model: &Model) -> Self {
        Self {
            vm,
            model: model.iter().map(|value| AtomicU64::new(*value)).collect(),
            still: RwLock::new(()),
        }
    }

    fn write(&self, frame: u64, which: u64, value: u64) {
        let _moving = self.still.read().unwrap();
        self.vm.write_word(value, address(frame, which));
        self.model[word(frame, which)].store(value, Ordering::Relaxed);
    }

    fn check(&self, frame: u64) {
        for which in 0..WORDS {
            let found = self.vm.read_word(address(frame, which));
            let expected = self.model[word(frame, which)].load(Ordering::Relaxed);
            assert_eq!(found, expected, "frame {frame}, word {which}");
        }
    }

    fn check_all(&self) {
        (0..VM_FRAMES).for_each(|frame| self.check(frame));
    }

    fn model(&self) -> Model {
        self.model
            .iter()
            .map(|value| value.load(Ordering::Relaxed))
            .collect()
    }

    /// Writes of one of the patterns that guests have.
    fn burst(&self, random: &mut Random, only: impl Fn(u64) -> bool) {
        let pattern = random.below(4);
        let (start, length) = match pattern {
            // A guest that rewrites much of its memory in a row.
            3 => (0, VM_FRAMES / 2 + random.below(VM_FRAMES / 2)),
            _ => (random.below(VM_FRAMES), 1 + random.below(200)),
        };
        for step in 0..length {
            let frame = match pattern {
                0 | 3 => (start + step) % VM_FRAMES,
                1 => (start + 37 * step) % VM_FRAMES,
                _ => random.below(VM_FRAMES),
            };
            if only(frame) {
                self.write(frame, random.below(WORDS), random.next());
            }
            if random.below(50) == 0 {
                self.vm.write_nothing(random.below(VM_FRAMES));
            }
        }
    }
}

struct Fixture<E> {
    pool: Arc<Pool>,
    /// At the beginning.
    free_blocks: u64,
    guests: Vec<Guest<E>>,
    snapshots: BTreeMap<String, Model>,
    images: BTreeMap<String, images::Pages>,
    ballast: Option<Holder>,
    random: Random,
    names: u64,
    log: Log,
}

impl<E: Playable> Fixture<E> {
    fn pick(&mut self) -> Option<usize> {
        let guests = self.guests.len() as u64;
        (guests > 0).then(|| self.random.below(guests) as usize)
    }

    fn pick_snapshot(&mut self) -> Option<String> {
        let count = self.snapshots.len() as u64;
        let at = (count > 0).then(|| self.random.below(count) as usize)?;
        self.snapshots.keys().nth(at).cloned()
    }

    fn fresh_name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    fn budget(&mut self) -> Budget {
        match self.random.below(3) {
            0 => Budget::of_this_process(),
            1 => Budget::with_limit(40),
            _ => Budget::with_limit(6),
        }
    }

    fn step(&mut self) {
        match self.random.below(29) {
            0 => self.boot(),
            1..=3 => self.restore(),
            4 => self.end_vm(),
            5 | 6 => _ = self.remove(),
            7..=10 => self.snapshot(),
            11 | 12 => self.fail_snapshot(),
            13 => self.fill_pool(),
            14..=16 => self.writers_and_snapshot(),
            17 => self.check_one(),
            18 => self.rewind(),
            20 | 21 => self.capture(),
            22..=24 => self.place(),
            25 => _ = self.remove_image(),
            26 => self.arm_ahead(),
            27 | 28 => self.release(),
            _ => self.write(),
        }
    }

    fn boot(&mut self) {
        if self.guests.len() < VMS_MAX {
            let budget = self.budget();
            let vm = Vm::with_budget(&self.pool, VM_BYTES, None, budget);
            self.guests
                .push(Guest::new(vm, &vec![0; (VM_FRAMES * WORDS) as usize]));
        }
    }

    fn restore(&mut self) {
        let Some(name) = self.pick_snapshot() else {
            return;
        };
        if self.guests.len() >= VMS_MAX {
            self.end_vm();
        }
        let budget = self.budget();
        let mut vm = Vm::with_budget(&self.pool, VM_BYTES, Some(&name), budget);
        let model = self.snapshots[&name].clone();
        let how = self.random.below(4);
        self.log.push(format!("restore {name} ({how})"));
        if how == 0 {
            // Devices look at some memory, and KVM writes some, before the snapshot is consumed.
            let guest = Guest::new(vm, &model);
            let mut random = Random(self.random.next());
            self.act(&guest, |guest| {
                for _ in 0..random.below(4) {
                    let frame = random.below(VM_FRAMES);
                    guest.check(frame);
                    guest.write(random.below(VM_FRAMES), 0, random.next());
                }
            });
            let model = guest.model();
            vm = guest.vm;
            match vm.holder.consume(vm.last.unwrap()) {
                Ok(consumed) => {
                    vm.last = consumed.rest;
                    vm.engine.take_over(consumed).unwrap();
                    self.snapshots.remove(&name);
                }
                Err(PoolError::Busy { .. } | PoolError::PoolFull { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            return self.guests.push(Guest::new(vm, &model));
        }
        if how == 1 {
            vm.engine.prefault().unwrap();
        }
        self.guests.push(Guest::new(vm, &model));
    }

    fn end_vm(&mut self) {
        if let Some(at) = self.pick() {
            drop(self.guests.swap_remove(at));
        }
    }

    fn remove(&mut self) -> bool {
        let Some(name) = self.pick_snapshot() else {
            return false;
        };
        self.log.push(format!("remove {name}"));
        self.pool.remove(&name).unwrap();
        self.snapshots.remove(&name);
        true
    }

    /// Somebody makes space for a VM that waits.
    fn relieve(&mut self) -> bool {
        self.log.push("relieve".into());
        self.ballast.take().is_some() || self.remove() || self.remove_image()
    }

    /// Looks whether a VM waits for space. It may be given some, and ask for it late on a busy
    /// machine.
    fn look_after(&mut self, vm: &Vm<E>, waits: &mut u32) {
        *waits = if vm.faults.is_starved() {
            *waits + 1
        } else {
            0
        };
        if *waits == WAITS_MIN && self.relieve() {
            *waits = 0;
        }
        assert!(
            *waits < WAITS_MAX,
            "the pool is full of nothing: {:#?}",
            self.pool.status().unwrap()
        );
    }

    /// The guest does something, on a thread of its own, as it may have to wait for space.
    fn act(&mut self, guest: &Guest<E>, deed: impl FnOnce(&Guest<E>) + Send) {
        std::thread::scope(|scope| {
            let actor = scope.spawn(|| deed(guest));
            or_abort(|| {
                let mut waits = 0;
                while !actor.is_finished() {
                    std::thread::sleep(Duration::from_micros(200));
                    guest.vm.engine.give_back_unused(0);
                    self.look_after(&guest.vm, &mut waits);
                }
            });
        });
    }

    fn with(&mut self, deed: impl FnOnce(&mut Self, &mut Guest<E>)) {
        if let Some(at) = self.pick() {
            let mut guest = self.guests.swap_remove(at);
            deed(self, &mut guest);
            self.guests.push(guest);
        }
    }

    fn write(&mut self) {
        self.with(|fixture, guest| {
            let mut random = Random(fixture.random.next());
            fixture.act(guest, |guest| guest.burst(&mut random, |_| true));
        });
    }

    fn check_one(&mut self) {
        self.with(|fixture, guest| fixture.act(guest, Guest::check_all));
    }

    fn make_room_for_a_snapshot(&mut self) {
        while self.snapshots.len() >= SNAPSHOTS_MAX {
            self.remove();
        }
    }

    fn snapshot(&mut self) {
        self.make_room_for_a_snapshot();
        let name = self.fresh_name();
        self.with(|fixture, guest| {
            if fixture.random.below(2) == 0 {
                guest.vm.engine.arm_few_ahead();
            }
            let model = guest.model();
            match guest.vm.snapshot(&name) {
                Ok(()) => _ = fixture.snapshots.insert(name, model),
                Err(PoolError::PoolFull { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            if fixture.random.below(2) == 0 {
                guest.vm.engine.copy_hot().unwrap();
            }
        });
    }

    /// Arms ahead of a snapshot that is given up.
    fn arm_ahead(&mut self) {
        self.with(|_, guest| guest.vm.engine.arm_few_ahead());
    }

    /// A snapshot that comes to nothing, at any stage, while the guest goes on.
    fn fail_snapshot(&mut self) {
        let Some(taken) = self.pick_snapshot() else {
            return;
        };
        self.log.push(format!("fail as {taken}"));
        self.with(|fixture, guest| {
            let Ok((reservation, room)) = guest.vm.prepare() else {
                return guest.vm.engine.drop_copies();
            };
            let Ok(set) = guest.vm.try_share(room) else {
                return guest.vm.engine.drop_copies();
            };
            let keeps_copies = fixture.random.below(2) == 0;
            if fixture.random.below(4) == 0 {
                guest.vm.engine.roll_back(set);
                if !keeps_copies {
                    guest.vm.engine.drop_copies();
                }
                return;
            }
            if fixture.random.below(2) == 0 {
                guest.vm.engine.copy_hot().unwrap();
            }
            if fixture.random.below(3) == 0 {
                fixture.release_of(guest);
            }
            let mut random = Random(fixture.random.next());
            fixture.act(guest, |guest| {
                for _ in 0..random.below(3) {
                    guest.check(random.below(VM_FRAMES));
                    guest.burst(&mut random, |_| true);
                }
            });
            if fixture.snapshots.contains_key(&taken) {
                guest.vm.commit(&taken, set, reservation).unwrap_err();
            } else {
                guest.vm.engine.roll_back(set);
            }
            if !keeps_copies {
                guest.vm.engine.drop_copies();
            }
        });
    }

    fn fill_pool(&mut self) {
        if self.ballast.is_none() {
            self.log.push("ballast".into());
            self.ballast = Some(ballast(&self.pool));
        }
    }

    /// Three writers; a snapshot of an instant in between, whose commit runs while they go on.
    fn writers_and_snapshot(&mut self) {
        self.make_room_for_a_snapshot();
        let name = self.fresh_name();
        self.with(|fixture, guest| {
            let seeds = [(); 3].map(|()| fixture.random.next());
            let mut prepared = None;
            let mut taken = None;
            std::thread::scope(|scope| {
                let writers: Vec<_> = (0..3u64)
                    .zip(seeds)
                    .map(|(writer, seed)| {
                        let guest = &*guest;
                        scope.spawn(move || {
                            let mut random = Random(seed);
                            for _ in 0..3 {
                                guest.burst(&mut random, |frame| frame % 3 == writer);
                            }
                        })
                    })
                    .collect();
                let mut waits = 0;
                or_abort(|| {
                    while !writers.iter().all(|writer| writer.is_finished()) || taken.is_none() {
                        if prepared.is_none() {
                            prepared = Some(guest.vm.prepare().ok());
                        }
                        if fixture.random.below(8) == 0 {
                            guest.vm.engine.arm_few_ahead();
                        }
                        if taken.is_none()
                            && let Ok(_still) = guest.still.try_write()
                        {
                            taken =
                                Some(prepared.take().flatten().and_then(|(reservation, room)| {
                                    let set = guest.vm.try_share(room).ok()?;
                                    Some((set, reservation, guest.model()))
                                }));
                        }
                        if taken.is_some() && fixture.random.below(2) == 0 {
                            guest.vm.engine.copy_hot().unwrap();
                        }
                        std::thread::sleep(Duration::from_micros(200));
                        guest.vm.engine.give_back_unused(512);
                        fixture.look_after(&guest.vm, &mut waits);
                    }
                });
            });
            let Some(Some((set, reservation, model))) = taken else {
                return guest.vm.engine.drop_copies();
            };
            match guest.vm.commit(&name, set, reservation) {
                Ok(()) => _ = fixture.snapshots.insert(name, model),
                Err(PoolError::PoolFull { .. }) => guest.vm.engine.drop_copies(),
                Err(other) => panic!("{other}"),
            }
        });
    }

    fn check_everything(&mut self) {
        let guests = std::mem::take(&mut self.guests);
        for guest in &guests {
            self.act(guest, Guest::check_all);
            let counters = guest.vm.engine.counters();
            let real = guest.vm.mappings_of_the_kernel();
            assert!(
                real <= counters.mappings && counters.mappings < 1 << 20,
                "{real} mappings, {counters:?}"
            );
            assert!(
                counters.frames_shared <= counters.frames_mapped,
                "{counters:?}"
            );
            guest.vm.engine.learn_writes(&guest.vm.log).unwrap();
            let stale = guest.vm.engine.stale_frames(10).unwrap();
            assert!(
                stale.is_empty(),
                "writes to frames {stale:?} were lost track of"
            );
        }
        self.ballast = None;
        let vms: Vec<&Vm<E>> = guests.iter().map(|guest| &guest.vm).collect();
        assert_hold_their_own(&self.pool, &vms);
        drop(vms);
        drop(guests);
        assert_clean(&self.pool);
        for (name, model) in self.snapshots.clone() {
            let vm = Vm::<E>::start(&self.pool, VM_BYTES, Some(&name));
            Guest::new(vm, &model).check_all();
        }
        self.check_images();
        while self.remove() {}
        assert_clean(&self.pool);
        let status = self.pool.status().unwrap();
        assert_eq!(
            status.free_blocks, self.free_blocks,
            "something is left over: {status:#?}"
        );
    }
}

/// Runs what looks after a guest's threads. After a panic they may wait for space that nobody makes
/// any more: that ends the process, with the cause.
fn or_abort(deed: impl FnOnce()) {
    if let Err(cause) = catch_unwind(AssertUnwindSafe(deed)) {
        let text = cause
            .downcast_ref::<String>()
            .map_or("no text", |text| text);
        // Not by eprintln: the output of a test is lost when its process is aborted.
        let _ = writeln!(std::io::stderr(), "a guest's threads wait for ever: {text}");
        std::process::abort();
    }
}

fn live<E: Playable>(directory: &Path, name: &str, steps: u64) {
    let seed = nvvmm_test_profile::seed();
    println!("{SEED_VARIABLE}={seed}");
    let place = PoolFile::on(directory, name);
    let pool = pool_of(&place, POOL_BYTES);
    let mut fixture = Fixture::<E> {
        free_blocks: pool.status().unwrap().free_blocks,
        pool,
        guests: Vec::new(),
        snapshots: BTreeMap::new(),
        images: BTreeMap::new(),
        ballast: None,
        random: Random(seed),
        names: 0,
        log: Log::default(),
    };
    fixture.boot();
    for step in 0..steps {
        fixture.step();
        if step % 10 == 9 {
            assert_clean(&fixture.pool);
        }
    }
    fixture.check_everything();
}

#[test]
fn any_sequence_of_operations_keeps_every_vm_and_every_snapshot_exact() {
    live::<RedirectEngine>(Path::new("/dev/shm"), "stress", STEPS);
}

#[test]
fn the_same_on_huge_pages() {
    if let Some(mount) = Mount::tmpfs("stress-huge", "huge=always,size=512m") {
        live::<RedirectEngine>(mount.path(), "stress-huge", STEPS / 2);
    }
}

#[test]
fn the_same_where_a_chunk_is_one_page() {
    if let Some(mount) = Mount::hugetlbfs("stress-chunks", POOL_BYTES / MIB) {
        live::<RedirectEngine>(mount.path(), "stress-chunks", STEPS / 2);
    }
}

#[test]
fn the_same_with_private_memory() {
    live::<PrivateEngine>(Path::new("/dev/shm"), "stress-private", STEPS);
}

#[test]
fn the_same_with_private_memory_over_a_file_on_disk() {
    live::<PrivateEngine>(Path::new("/var/tmp"), "stress-disk", STEPS / 2);
}

/// Events of the test; printed when it fails.
#[derive(Default)]
struct Log(Vec<String>);

impl Log {
    fn push(&mut self, event: String) {
        self.0.push(event);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0.join("\n"));
        }
    }
}
