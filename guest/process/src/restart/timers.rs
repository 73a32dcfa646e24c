//! Timers of a process (timer_create(2)).

use super::stubs::Stub;
use crate::error::{Error, failed};
use crate::image::ProcessTimer;

/// Since Linux 6.15: the caller chooses the numbers of timers.
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// Timers that are made and given up to come to a number, at most.
const NUMBERS_MAX: u32 = 1 << 16;

/// Makes the timers of a process, with their numbers, and starts them.
pub fn start(stub: &Stub) -> Result<(), Error> {
    let timers = stub.settings.map_or(&[][..], |settings| &settings.timers);
    if timers.is_empty() {
        return Ok(());
    }
    let choose = |on: u64| {
        let arguments = [PR_TIMER_CREATE_RESTORE_IDS, on, 0, 0, 0];
        stub.leader().try_call(libc::SYS_prctl, &arguments)
    };
    let chosen = choose(1)?.is_ok();
    for timer in timers {
        create(stub, timer, chosen)?;
        arm(stub, timer)?;
    }
    if chosen {
        choose(0)?.map_err(failed("choose numbers of timers"))?;
    }
    Ok(())
}

/// An older kernel counts: so timers are made until one has the number.
fn create(stub: &Stub, timer: &ProcessTimer, chosen: bool) -> Result<(), Error> {
    // struct sigevent: value, signal, how, thread.
    let mut event = timer.value.to_le_bytes().to_vec();
    for number in [timer.signal, timer.notify, timer.thread, timer.id] {
        event.extend(number.to_le_bytes());
    }
    event.resize(64, 0);
    for _ in 0..NUMBERS_MAX {
        let mut bytes = event.clone();
        bytes.extend(timer.id.to_le_bytes());
        let address = stub.put(&bytes)?;
        let number = address + event.len() as u64;
        let arguments = [timer.clock as u64, address, number];
        stub.call("make a timer", libc::SYS_timer_create, &arguments)?;
        let mut made = [0; 4];
        stub.blank.memory.read(number, &mut made)?;
        let made = i32::from_le_bytes(made);
        if made == timer.id {
            return Ok(());
        }
        stub.call("give up a timer", libc::SYS_timer_delete, &[made as u64])?;
        if chosen || made > timer.id {
            break;
        }
    }
    Err(Error::BadImage("a timer cannot have its number back"))
}

fn arm(stub: &Stub, timer: &ProcessTimer) -> Result<(), Error> {
    if timer.left == (0, 0) {
        return Ok(());
    }
    let numbers = [
        timer.interval.0,
        timer.interval.1,
        timer.left.0,
        timer.left.1,
    ];
    let address = stub.put(&numbers.map(i64::to_le_bytes).concat())?;
    let arguments = [timer.id as u64, 0, address, 0];
    stub.call("start a timer", libc::SYS_timer_settime, &arguments)
        .map(drop)
}
