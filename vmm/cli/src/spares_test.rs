use clap::Parser;

use super::*;
use crate::args::{Arguments, Command as Parsed};

fn restore(line: &str) -> RestoreArguments {
    let words = ["nvvmm", "restore", "base"].into_iter();
    let parsed = Arguments::try_parse_from(words.chain(line.split_whitespace())).unwrap();
    match parsed.command {
        Parsed::Restore(restore) => restore,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_spare_vm_fits_where_nothing_is_asked_that_it_cannot_have() {
    for line in [
        "--detach",
        "-d --name web --clock step",
        "-d --paused --console none --json",
        "-d --count 3",
    ] {
        assert!(fits(&restore(line)), "{line}");
    }
    for line in [
        "",
        "--console none",
        "-d --once",
        "-d --prefault",
        "-d --disk d.img",
        "-d --stale-disks",
        "-d --kernel k",
        "-d --on-reboot exit",
        "-d --no-sandbox",
        "-d --uid 1",
    ] {
        assert!(!fits(&restore(line)), "{line}");
    }
}
