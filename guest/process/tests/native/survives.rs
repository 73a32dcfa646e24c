//! State that a process has again after a restart: one test for each promise.

use crate::for_each_survivor;
use crate::harness::{can_run, round_trips};

macro_rules! survives {
    ($($test:ident: $scenario:literal,)*) => {
        $(
            #[test]
            fn $test() {
                if can_run() {
                    round_trips($scenario);
                }
            }
        )*
    };
}

for_each_survivor!(survives);
