//! Blocks `console,linux`, where KVM boots Linux.

use nvvmm_tests::required;

use crate::{markdown::Marker, quickstart::README, run::run_all};

#[test]
fn what_the_book_shows_with_a_linux_guest_is_so() {
    for variable in ["NVVMM_GUEST_KERNEL", "NVVMM_GUEST_INITRAMFS"] {
        required(variable);
    }
    run_all(&Marker::Linux, &required("NVVMM_BIN"), |path| {
        path != README
    });
}
