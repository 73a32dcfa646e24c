//! Blocks `console,bare-metal`, on /dev/kvm.

use nvvmm_tests::required;

use crate::{markdown::Marker, run::run_all};

#[test]
fn what_documents_show_with_the_bare_metal_guest_is_so() {
    required("NVVMM_BAREMETAL_GUEST");
    run_all(&Marker::BareMetal, &required("NVVMM_BIN"), |_| true);
}
