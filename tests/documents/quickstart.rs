//! The quickstart of README.md, as it is typed. scripts/quickstart.sh runs both parts, in order.

use nvvmm_tests::required;

use crate::{
    markdown::Document,
    run::{prepare_quickstart, run_quickstart},
};

/// The document that has it.
pub const README: &str = "README.md";

/// Empty directory that the first part fills.
const BASE: &str = "NVVMM_QUICKSTART";

fn readme() -> Document {
    let is_readme = |document: &Document| document.path == README;
    Document::all().into_iter().find(is_readme).unwrap()
}

#[test]
#[ignore = "builds a clean clone and fetches Debian; scripts/quickstart.sh runs it"]
fn a_clone_an_installation_and_an_image_are_made_as_typed() {
    prepare_quickstart(&readme(), &required(BASE));
}

#[test]
#[ignore = "needs what the first part has made, and a KVM that boots Linux; scripts/quickstart.sh"]
fn the_rest_works_as_typed() {
    run_quickstart(&readme(), &required(BASE));
}
