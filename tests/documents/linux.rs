//! Blocks `console,linux`, where KVM boots Linux.

use nvvmm_tests::required;

use crate::{markdown::Marker, run::run_all};

const README: &str = "README.md";

fn run(chosen: impl Fn(&str) -> bool) {
    for variable in ["NVVMM_GUEST_KERNEL", "NVVMM_GUEST_INITRAMFS"] {
        required(variable);
    }
    run_all(&Marker::Linux, &required("NVVMM_BIN"), chosen);
}

#[test]
fn the_quickstart_works_as_typed() {
    run(|path| path == README);
}

#[test]
fn what_the_book_shows_with_a_linux_guest_is_so() {
    run(|path| path != README);
}
