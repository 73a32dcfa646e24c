//! Rewinds in place: back to a snapshot, again and again, with all memory compared after each.

use std::time::{Duration, Instant};

use nvvmm::{Vm, VmError, VmOptions, control::RewindRequest, spec::VmSpec};

use super::{
    bench_pool::{BenchPool, GUEST_SLACK_BYTES},
    console::{Console, number},
    copied,
    mapped::MappedGuest,
    observed::{size_name, time_text},
    paper::used_bytes,
    plan::Plan,
    progress::Progress,
    report::{Bound, Experiment, Table, Target},
    statistics::Spread,
};

const SEED: u64 = 43;
const VM: &str = "rewound-in-place";
const SNAPSHOT: &str = "rewind";
const MAPPED: &str = "private mapping, started anew";
/// Memory of the guest, at most: all of it is compared after each rewind.
const SIZE_MAX: u64 = 64 << 20;
/// Memory that is written between two rewinds, at most.
const WRITTEN_MAX: u64 = 16 << 20;
/// Rewinds of a repetition that are measured.
const REWINDS: usize = 5;
/// Time for which one rewind follows the other.
const SUSTAINED: Duration = Duration::from_secs(1);

/// Figures of one way on one medium, times in microseconds.
#[derive(Default)]
struct Seen {
    name: String,
    stopped: Vec<f64>,
    total: Vec<f64>,
    /// From the request until the same memory was written again.
    written_again: Vec<f64>,
    per_second: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// Something could not be done, or a guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let size = plan.sizes.last().copied().unwrap_or_default().min(SIZE_MAX);
    let mut mapped = Seen {
        name: format!("{MAPPED}, {}", pools[0].medium),
        ..Seen::default()
    };
    let mut seen: Vec<Seen> = pools
        .iter()
        .map(|pool| Seen {
            name: pool.medium.clone(),
            ..Seen::default()
        })
        .collect();
    let mut frames_verified = 0;
    for turn in 1..=plan.repeat {
        progress.step(&format!("rewind: {turn} of {}", plan.repeat))?;
        frames_verified += from_mapping(&pools[0], size, &mut mapped)?;
        for (pool, seen) in pools.iter().zip(&mut seen) {
            progress.go_on()?;
            frames_verified += in_place(pool, size, seen)?;
        }
    }
    seen.push(mapped);
    Ok(present(&seen, size, frames_verified))
}

fn write(size: u64) -> String {
    format!("write 0 {}", WRITTEN_MAX.min(size) / 4096)
}

fn in_place(pool: &BenchPool, size: u64, seen: &mut Seen) -> Result<u64, VmError> {
    let kernel = pool.spec(size).kernel.unwrap_or_default();
    let spec = VmSpec::builder(&kernel)
        .vcpus(1)
        .memory_bytes(size + GUEST_SLACK_BYTES)
        .build();
    let (options, stream) = VmOptions::named(VM)
        .with_console()
        .map_err(|e| VmError::io("make a console", &e))?;
    let vm = Vm::boot(pool.pool(), spec, options)?;
    let mut console = Console::of(stream)?;
    console.ask(&format!("fill {} {SEED}", size >> 20))?;
    vm.snapshot(SNAPSHOT)?;
    let back = || RewindRequest::To {
        name: SNAPSHOT.into(),
        stale_disks: false,
        keep_clock: true,
        keep_connections: false,
    };
    let mut frames_verified = 0;
    console.ask(&write(size))?;
    for _ in 0..REWINDS {
        let began = Instant::now();
        let report = vm.rewind(back())?;
        console.ask(&write(size))?;
        seen.written_again.push(began.elapsed().as_secs_f64() * 1e6);
        seen.stopped.push(report.stopped_us);
        seen.total.push(report.total_us);
        vm.rewind(back())?;
        frames_verified += number(&console.ask("check")?, "frames")?;
        console.ask(&write(size))?;
    }
    let began = Instant::now();
    let mut count = 0.0;
    while began.elapsed() < SUSTAINED {
        vm.rewind(back())?;
        count += 1.0;
    }
    seen.per_second.push(count / began.elapsed().as_secs_f64());
    frames_verified += number(&console.ask("check")?, "frames")?;
    vm.stop();
    vm.wait()?;
    pool.remove(SNAPSHOT)?;
    Ok(frames_verified)
}

/// The same by a new machine whose memory is a private mapping of a copied checkpoint.
fn from_mapping(pool: &BenchPool, size: u64, seen: &mut Seen) -> Result<u64, VmError> {
    let mut guest = pool.boot_machine(VmSpec {
        vcpus: 1,
        ..pool.spec(size)
    })?;
    guest.fill(size, SEED)?;
    let used = used_bytes(&mut guest, size)?;
    let copy = copied::checkpoint(pool, &guest, used, 1)?;
    drop(guest);
    let mut frames_verified = 0;
    for _ in 0..REWINDS {
        let began = Instant::now();
        let mut guest = MappedGuest::start(pool, &copy)?;
        let us = || began.elapsed().as_secs_f64() * 1e6;
        seen.total.push(us());
        guest.console.ask(&write(size))?;
        seen.written_again.push(us());
        frames_verified += number(&guest.console.ask("check")?, "frames")?;
    }
    Ok(frames_verified)
}

fn present(seen: &[Seen], size: u64, frames_verified: u64) -> Experiment {
    let text = |us: &[f64]| Spread::of(us).map_or_else(|| "-".into(), time_text);
    let rows = seen.iter().map(|seen| {
        let rate = Spread::of(&seen.per_second);
        vec![
            seen.name.clone(),
            text(&seen.stopped),
            text(&seen.total),
            text(&seen.written_again),
            rate.map_or_else(|| "-".into(), |rate| format!("{:.0}", rate.median)),
        ]
    });
    let written = size_name(WRITTEN_MAX.min(size));
    let mut targets = Vec::new();
    for seen in seen.iter().filter(|seen| !seen.stopped.is_empty()) {
        let stopped: Vec<f64> = seen.stopped.iter().map(|us| us / 1000.0).collect();
        for (what, wanted, measured, unit) in [
            ("time without a guest", Bound::AtMost(2.0), &stopped, " ms"),
            (
                "rewinds in a second",
                Bound::AtLeast(300.0),
                &seen.per_second,
                "",
            ),
        ] {
            targets.extend(Spread::of(measured).map(|measured| Target {
                what: format!("rewind, {}, {written} written: {what}", seen.name),
                wanted,
                measured,
                unit: unit.into(),
            }));
        }
    }
    let columns = [
        "pool",
        "no guest",
        "in all",
        "until it is written again",
        "in a second",
    ];
    Experiment {
        name: "rewind".into(),
        title: "Rewinds in place".into(),
        about: format!(
            "A guest with 1 vCPU fills {}, is snapshotted, and writes {written}. Then its VM goes \
             back to the snapshot, and the guest writes the same memory again; the VM goes back \
             once more, and the guest compares all of its memory. At the end one rewind follows \
             the other for {} s, from one caller. `{MAPPED}`: a new machine whose memory is a \
             private mapping of a copied checkpoint, which is how one goes back without a pool.",
            size_name(size),
            SUSTAINED.as_secs()
        ),
        tables: vec![Table {
            title: format!("Back to a snapshot, {written} written since"),
            columns: columns.map(str::to_owned).to_vec(),
            rows: rows.collect(),
        }],
        targets,
        limits: vec![
            "Between request and answer the guest's console takes 1 to 2 ms on a software KVM."
                .into(),
        ],
        frames_verified,
        ..Experiment::default()
    }
}
