use super::*;
use clap::CommandFactory;

use crate::args::Arguments;

#[test]
fn each_command_that_is_shown_has_a_page() {
    let dir = tempfile::tempdir().unwrap();
    man(dir.path(), false).unwrap();
    let again = man(dir.path(), false).unwrap_err();
    assert_eq!(again.kind, nvvmm::ErrorKind::Refused);
    man(dir.path(), true).unwrap();
    let pages: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for command in Arguments::command().get_subcommands() {
        let page = format!("nvvmm-{}.1", command.get_name());
        assert_eq!(
            pages.contains(&page),
            !command.is_hide_set(),
            "{page}: {pages:?}"
        );
    }
    for page in ["nvvmm.1", "nvvmm-pool-create.1"] {
        assert!(pages.iter().any(|name| name == page), "{page}: {pages:?}");
    }
    let page = fs::read_to_string(dir.path().join("nvvmm-snapshot.1")).unwrap();
    assert!(
        page.contains("\\-\\-verify") && page.contains(".TH nvvmm-snapshot 1"),
        "{page}"
    );
    assert!(man(Path::new("/proc/none"), false).is_err());
}
