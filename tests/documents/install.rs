//! Blocks `console,install`, with a home directory of their own.

#[test]
#[ignore = "builds the program as users do, with optimisations; scripts/test.sh --nightly runs it"]
fn what_documents_show_of_an_installation_is_so() {
    crate::run::run_installation();
}
