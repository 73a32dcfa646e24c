//! nvvmm's bare-metal test guest. See README.md for the boot protocol and the console's commands.
#![no_std]
#![no_main]

mod balloon;
mod churn;
mod console;
mod giver;
mod jobs;
mod pacer;
mod session;
mod sys;
mod vcpu_barrier;

use console::reply;
use jobs::Lane;
use session::Session;
use sys::Ram;

/// Every vCPU comes here, on its own stack.
fn main(vcpu: u64, vcpus: u64, ram: Ram) -> ! {
    let lane = Lane::new(vcpu, vcpus, ram);
    if vcpu == 0 {
        Session::new(lane).serve()
    } else {
        vcpu_barrier::work(vcpu, |job| lane.run(job))
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    reply!("panic {info}");
    sys::crash()
}
