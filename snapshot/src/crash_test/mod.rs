//! Power cuts and kills at every moment: the pool is as before the operation in flight or as after
//! it, and in order.
//!
//! `power_cuts` and `kills` cut off a fixed `fixture` everywhere; `history` is random and long.

mod contents;
mod disks;
mod expected;
mod fixture;
mod history;
mod kills;
mod liars;
mod model;
mod oracle;
mod perform;
mod power_cuts;
mod rewinds;
mod steps;
mod vm_steps;

use crate::region::sim::Killed;

/// Being killed is no failure: keeps it out of the tests' output.
fn silence_kills() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.payload().is::<Killed>() {
                usual(panic);
            }
        }));
    });
}
