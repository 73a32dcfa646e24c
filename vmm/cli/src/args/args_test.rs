use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind as ClapError;
use nvvmm::control::TimeOfDay;

use super::*;

fn parse(line: &str) -> Result<Command, ClapError> {
    Arguments::try_parse_from(line.split(' '))
        .map(|a| a.command)
        .map_err(|e| e.kind())
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn run_takes_what_a_machine_needs() {
    let line = "nvvmm run --kernel k --initramfs i --cmdline -x=1 --memory 1G --cpus 4 --disk a \
                --disk b,ro --name n \
                --pool p --detach --console none --paused --json";
    let Ok(Command::Run(run)) = parse(line) else {
        panic!("not understood")
    };
    assert_eq!(run.kernel, PathBuf::from("k"));
    assert_eq!(run.initramfs, Some(PathBuf::from("i")));
    assert_eq!(
        (run.cmdline.as_str(), run.memory, run.cpus),
        ("-x=1", 1 << 30, 4)
    );
    assert_eq!(
        run.disks.iter().map(|d| d.read_only).collect::<Vec<_>>(),
        [false, true]
    );
    let start = run.start;
    assert_eq!(
        (start.name.as_deref(), start.pool.path()),
        (Some("n"), Some(PathBuf::from("p")))
    );
    assert_eq!(start.console, Some(ConsoleChoice::None));
    assert!(start.detach && start.paused && start.json);
}

#[test]
fn run_has_defaults() {
    let Ok(Command::Run(run)) = parse("nvvmm run --kernel k") else {
        panic!("not understood")
    };
    assert_eq!(
        (run.memory, run.cpus, run.cmdline.as_str()),
        (512 << 20, 2, "")
    );
    assert!(run.disks.is_empty() && run.start.name.is_none() && run.start.console.is_none());
    assert!(!run.start.detach && !run.start.paused && !run.start.json);
}

#[test]
fn restore_takes_its_options() {
    let line = "nvvmm restore base --once --prefault --disk x --name n";
    let Ok(Command::Restore(restore)) = parse(line) else {
        panic!("not understood")
    };
    assert_eq!(
        (restore.snapshot.as_str(), restore.once, restore.prefault),
        ("base", true, true)
    );
    assert_eq!(restore.disks.len(), 1);
}

#[test]
fn the_time_of_day_is_stepped_unless_it_is_to_be_kept() {
    for (options, expected) in [
        ("", TimeOfDay::Step),
        (" --clock step", TimeOfDay::StepAwaited),
        (" --clock keep", TimeOfDay::Keep),
    ] {
        let line = format!("nvvmm restore base{options}");
        let Ok(Command::Restore(restore)) = parse(&line) else {
            panic!("{line}")
        };
        assert_eq!(restore.agent_orders().time_of_day, expected, "{line}");
    }
    for (options, expected) in [
        ("", ClockChoice::Step),
        (" --clock keep", ClockChoice::Keep),
    ] {
        let line = format!("nvvmm rewind web{options}");
        let Ok(Command::Rewind(rewind)) = parse(&line) else {
            panic!("{line}")
        };
        assert_eq!(rewind.clock, expected, "{line}");
    }
}

#[test]
fn connections_end_unless_they_are_to_be_kept() {
    for (options, expected) in [("", false), (" --keep-connections", true)] {
        let line = format!("nvvmm restore base --count 2 --detach{options}");
        let Ok(Command::Restore(restore)) = parse(&line) else {
            panic!("{line}")
        };
        assert_eq!(restore.agent_orders().keep_connections, expected, "{line}");
        let line = format!("nvvmm rewind web{options}");
        let Ok(Command::Rewind(rewind)) = parse(&line) else {
            panic!("{line}")
        };
        assert_eq!(rewind.keep_connections, expected, "{line}");
    }
    assert!(parse("nvvmm restore base --into web --keep-connections").is_err());
}

#[test]
fn hooks_have_a_time_limit_or_are_left_out() {
    let Ok(Command::Snapshot(snapshot)) = parse("nvvmm snapshot web s --hooks-timeout 2m") else {
        panic!("not understood")
    };
    assert_eq!(snapshot.hooks_timeout, Duration::from_secs(120));
    let Ok(Command::Snapshot(snapshot)) = parse("nvvmm snapshot web s") else {
        panic!("not understood")
    };
    let default = (snapshot.hooks_timeout, snapshot.no_hooks);
    assert_eq!(default, (Duration::from_secs(10), false));
    for refused in [
        "nvvmm snapshot web s --no-hooks --hooks-timeout 1s",
        "nvvmm snapshot web s --process 7 --no-hooks",
    ] {
        assert!(parse(refused).is_err(), "{refused}");
    }
    // The default of one option is no reason to refuse another.
    assert!(parse("nvvmm snapshot web s --process 7").is_ok());
    assert!(parse("nvvmm snapshot web s --no-hooks").is_ok());
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (line, kind) in [
        ("nvvmm", ClapError::DisplayHelpOnMissingArgumentOrSubcommand),
        ("nvvmm fly", ClapError::InvalidSubcommand),
        ("nvvmm run", ClapError::MissingRequiredArgument),
        (
            "nvvmm run --kernel k --memory 3M",
            ClapError::ValueValidation,
        ),
        ("nvvmm run --kernel k --cpus 0", ClapError::ValueValidation),
        (
            "nvvmm run --kernel k --disk d,xx",
            ClapError::ValueValidation,
        ),
        (
            "nvvmm run --kernel k --console tty",
            ClapError::InvalidValue,
        ),
        ("nvvmm restore", ClapError::MissingRequiredArgument),
        ("nvvmm restore a/b", ClapError::ValueValidation),
        ("nvvmm snapshot vm", ClapError::MissingRequiredArgument),
        ("nvvmm snapshot vm .x", ClapError::ValueValidation),
        ("nvvmm pause ../x", ClapError::ValueValidation),
        ("nvvmm rm", ClapError::MissingRequiredArgument),
        (
            "nvvmm pool",
            ClapError::DisplayHelpOnMissingArgumentOrSubcommand,
        ),
        ("nvvmm pool create", ClapError::MissingRequiredArgument),
        (
            "nvvmm snapshot v s --durability much",
            ClapError::InvalidValue,
        ),
        ("nvvmm pool create p --size 1M", ClapError::ValueValidation),
        ("nvvmm snapshot v s --process 0", ClapError::ValueValidation),
        (
            "nvvmm snapshot v s --tree",
            ClapError::MissingRequiredArgument,
        ),
        (
            "nvvmm snapshot v s --kill",
            ClapError::MissingRequiredArgument,
        ),
        (
            "nvvmm snapshot v s --process 1 --stop",
            ClapError::ArgumentConflict,
        ),
        (
            "nvvmm snapshot v s --process 1 --kill --leave-stopped",
            ClapError::ArgumentConflict,
        ),
        (
            "nvvmm restore s --attach",
            ClapError::MissingRequiredArgument,
        ),
        (
            "nvvmm restore s --into v --detach",
            ClapError::ArgumentConflict,
        ),
        (
            "nvvmm restore s --into v --once",
            ClapError::ArgumentConflict,
        ),
        (
            "nvvmm restore s --into v --attach --json",
            ClapError::ArgumentConflict,
        ),
    ] {
        assert_eq!(parse(line).unwrap_err(), kind, "{line}");
    }
}

#[test]
fn a_check_has_no_name_and_everything_else_has_one() {
    for (line, kind) in [
        (
            "nvvmm snapshot v --process 1",
            ClapError::MissingRequiredArgument,
        ),
        (
            "nvvmm snapshot v --check",
            ClapError::MissingRequiredArgument,
        ),
        (
            "nvvmm snapshot v s --process 1 --check",
            ClapError::ArgumentConflict,
        ),
    ] {
        assert_eq!(parse(line).unwrap_err(), kind, "{line}");
    }
}

#[test]
fn commands_that_list_or_report_have_json() {
    for line in [
        "nvvmm ps --json",
        "nvvmm snapshot v s --json",
        "nvvmm snapshots --json",
        "nvvmm rm s --json",
        "nvvmm pool status --json",
        "nvvmm pool check p --json",
        "nvvmm run --kernel k --detach --json",
        "nvvmm restore s --detach --json",
        "nvvmm snapshot v s --process 4711 --tree --kill --json",
        "nvvmm snapshot v --process 4711 --tree --kill --check --json",
        "nvvmm restore s --into v --json",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
}

#[test]
fn a_pool_command_takes_its_pool_with_or_without_the_option() {
    for line in [
        "nvvmm pool status p",
        "nvvmm pool status --pool p",
        "nvvmm pool status p --pool q",
    ] {
        let Ok(Command::Pool(PoolCommand::Status { pool, .. })) = parse(line) else {
            panic!("{line} is not understood")
        };
        assert_eq!(pool.option().path(), Some(PathBuf::from("p")), "{line}");
    }
}

#[test]
fn send_and_receive_mean_standard_streams_unless_told_otherwise() {
    let Ok(Command::Send(send)) = parse("nvvmm send a --since b") else {
        panic!("not understood")
    };
    assert_eq!(
        (send.snapshot.as_str(), send.since.as_deref()),
        ("a", Some("b"))
    );
    assert_eq!(
        (send.output, send.level, send.encrypt),
        (PathBuf::from("-"), 3, None)
    );
    let Ok(Command::Receive(receive)) = parse("nvvmm receive --name c --decrypt k") else {
        panic!("not understood")
    };
    assert_eq!(receive.input, PathBuf::from("-"));
    assert_eq!(
        (receive.name.as_deref(), receive.decrypt),
        (Some("c"), Some(PathBuf::from("k")))
    );
    assert!(!send.with_lineage && receive.onto.is_none() && receive.limit.is_none());
    let Ok(Command::Receive(receive)) = parse("nvvmm receive x --onto a --limit 2G") else {
        panic!("not understood")
    };
    assert_eq!(
        (receive.onto.as_deref(), receive.limit),
        (Some("a"), Some(2 << 30))
    );
    for wrong in [
        "nvvmm send",
        "nvvmm send a --level 0",
        "nvvmm send a --level 20",
        "nvvmm receive a b",
        "nvvmm receive --name web@7",
        "nvvmm receive --limit 1",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn spare_vms_are_counted_or_listed() {
    let Ok(Command::Spare(spare)) = parse("nvvmm spare base --count 4 --json") else {
        panic!("not understood")
    };
    assert_eq!(
        (spare.snapshot.as_deref(), spare.count),
        (Some("base"), Some(4))
    );
    assert!(matches!(parse("nvvmm spare"), Ok(Command::Spare(_))));
    for line in [
        "nvvmm spare base",
        "nvvmm spare --count 4",
        "nvvmm spare base --count 251",
        "nvvmm spare base --count 1 --refill",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn several_copies_are_in_the_background() {
    let Ok(Command::Restore(restore)) = parse("nvvmm restore base -d -c 100 -n web") else {
        panic!("not understood")
    };
    assert_eq!(restore.count, Some(100));
    for line in [
        "nvvmm restore base --count 3",
        "nvvmm restore base -d --count 0",
        "nvvmm restore base -d --count 3 --once",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}
