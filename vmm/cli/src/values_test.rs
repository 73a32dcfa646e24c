use nvvmm::spec::{DiskRate, DiskSource};

use super::*;

#[test]
fn sizes_are_powers_of_1024() {
    for (text, bytes) in [
        ("2M", 2 << 20),
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("512MiB", 512 << 20),
        ("2G", 2 << 30),
        ("2 G", 2 << 30),
        ("1.5G", 1536 << 20),
        ("0.25GiB", 256 << 20),
        ("4096K", 4 << 20),
        ("2097152", 2 << 20),
        ("2097152B", 2 << 20),
        ("16T", 16 << 40),
    ] {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn sizes_that_are_none_are_refused_with_the_reason() {
    for (text, reason) in [
        ("", "the number is missing"),
        ("M", "the number is missing"),
        ("-1M", "not a size: give a number with a unit"),
        ("1..5G", "not a number"),
        ("1.5.5G", "not a number"),
        (".5G", "not a number"),
        ("1.G", "not a number"),
        ("1.0000000001G", "not a number"),
        ("512MB", "the unit 'mb' is unknown: use K, M, G or T"),
        ("1x", "the unit 'x' is unknown"),
        ("ten", "not a size"),
        ("0", "0 B is too small: the smallest size is 2M"),
        ("1M", "1 MiB is too small: the smallest size is 2M"),
        (
            "3M",
            "3 MiB is not a multiple of 2M: the nearest sizes are 2M and 4M",
        ),
        (
            "5000000",
            "4.8 MiB (5000000 bytes) is not a multiple of 2M: the nearest sizes are 4M and 6M",
        ),
        ("16.5T", "16.5T is too large: the largest size is 16 TiB"),
        ("99999999999999999999", "too large"),
        ("18446744073709551615T", "too large"),
    ] {
        let error = size(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn a_disk_has_limits_of_bytes_and_requests_per_second() {
    let limited = |text: &str| {
        let disk = disk(text).unwrap();
        let DiskRate {
            bytes_per_s,
            requests_per_s,
        } = disk.rate;
        (
            disk.path().unwrap().to_str().unwrap().to_owned(),
            disk.read_only,
            bytes_per_s.map(NonZeroU64::get),
            requests_per_s.map(NonZeroU64::get),
        )
    };
    let of = |path: &str, read_only, rate, iops| (path.to_owned(), read_only, rate, iops);
    let m100 = Some(100 << 20);
    assert_eq!(limited("a,rate=100M"), of("a", false, m100, None));
    assert_eq!(
        limited("a,ro,rate=100M,iops=2000"),
        of("a", true, m100, Some(2000))
    );
    assert_eq!(
        limited("a,iops=1,rate=64K,ro"),
        of("a", true, Some(65536), Some(1))
    );
    assert_eq!(
        limited("a,b.img,rw,rate=100M"),
        of("a,b.img", false, m100, None)
    );
    assert!(disk("a,raw").unwrap().is_surely_raw);
    let refused = |text: &str, reason: &str| {
        let error = disk(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    };
    refused("a,b.img,rate=1M", "'b.img' is unknown");
    refused("a,rat=1M,iops=5", "'rat=1M' is unknown");
    refused("a,rate=1M,rate=2M", "'rate=1M' is given twice");
    refused("a,raw,raw", "given twice");
    refused("a,iops=5,iops=5", "given twice");
    refused("a,rate=0", "smallest rate is 64K");
    refused("a,rate=63K", "smallest rate is 64K");
    refused("a,rate=fast", "in 'rate=fast': this is not a size");
    refused("a,rate=", "in 'rate='");
    refused("a,rate=1X", "unit 'x' is unknown");
    refused("a,iops=0", "in 'iops=0'");
    refused("a,iops=-1", "in 'iops=-1'");
    refused("a,iops=1k", "in 'iops=1k'");
    refused(",rate=1M", "missing");
}

#[test]
fn disks_are_paths_with_an_option() {
    let disk_of = |path: &str, read_only| {
        Ok(DiskSpec {
            source: DiskSource::File(PathBuf::from(path)),
            read_only,
            ..DiskSpec::default()
        })
    };
    assert_eq!(disk("a.img"), disk_of("a.img", false));
    assert_eq!(disk("a.img,ro"), disk_of("a.img", true));
    assert_eq!(disk("a.img,rw"), disk_of("a.img", false));
    assert_eq!(disk("a,b.img,rw"), disk_of("a,b.img", false));
    assert!(
        disk("a.img,readonly")
            .unwrap_err()
            .contains("the disk option 'readonly' is unknown")
    );
    assert_eq!(disk("a,ro,rw"), disk_of("a,ro", false));
    assert_eq!(disk("a,b=1,ro"), disk_of("a,b=1", true));
    assert!(disk(",ro").unwrap_err().contains("missing"));
    assert!(disk("").unwrap_err().contains("missing"));
}

#[test]
fn names_and_counts_are_checked() {
    assert_eq!(vm_name("web-1").unwrap(), "web-1");
    assert!(vm_name("../web").is_err());
    assert_eq!(snapshot_name(&"s".repeat(128)).unwrap().len(), 128);
    assert_eq!(snapshot_name("web@12").unwrap(), "web@12");
    assert!(
        new_snapshot_name("web@12")
            .unwrap_err()
            .contains("nvvmm checkpoint")
    );
    assert_eq!(new_snapshot_name("web-12").unwrap(), "web-12");
    for bad in ["", "-x", ".x", "@1", "a/b", "a b", &"s".repeat(129)] {
        assert!(snapshot_name(bad).is_err(), "{bad:?}");
    }
    assert_eq!(vcpus("1"), Ok(1));
    assert_eq!(vcpus("64"), Ok(64));
    for bad in ["0", "65", "-1", "two", "256", ""] {
        assert!(vcpus(bad).unwrap_err().contains("from 1 to 64"), "{bad}");
    }
}

#[test]
fn periods() {
    assert_eq!(period("0"), Ok(Duration::ZERO));
    assert_eq!(period("10ms"), Ok(Duration::from_millis(10)));
    assert_eq!(period("250us"), Ok(Duration::from_micros(250)));
    assert_eq!(period("1m 30s"), Ok(Duration::from_secs(90)));
    for bad in ["", "10", "fast", "-1s", "1ns", "2y"] {
        assert!(period(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_new_size_is_whole_or_more() {
    assert_eq!(new_size("2G"), Ok(NewSize::Whole(2 << 30)));
    assert_eq!(new_size("+6M"), Ok(NewSize::More(6 << 20)));
    assert_eq!(NewSize::More(6 << 20).bytes(8 << 20), 14 << 20);
    assert_eq!(NewSize::Whole(6 << 20).bytes(8 << 20), 6 << 20);
    for refused in ["+", "++2M", "+1M", "-2M", ""] {
        assert!(new_size(refused).is_err(), "{refused}");
    }
}

#[test]
fn a_place_is_in_a_guest_when_a_vm_stands_before_its_colon() {
    let guest = |vm: &str, path: &str| {
        Ok(CopyPlace::Guest {
            vm: vm.into(),
            path: path.into(),
        })
    };
    assert_eq!(copy_place("web:/etc/x"), guest("web", "/etc/x"));
    assert_eq!(copy_place("web:a:b"), guest("web", "a:b"));
    assert_eq!(copy_place("-"), Ok(CopyPlace::Stream));
    for host in ["x", "/a:b", "./a:b", "dir/a:b", "./-"] {
        assert_eq!(copy_place(host), Ok(CopyPlace::Host(host.into())));
    }
    for wrong in ["", "web:", ":x", "-a:x"] {
        assert!(copy_place(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_variable_has_a_name() {
    assert_eq!(variable("A=b=c"), Ok(("A".into(), "b=c".into())));
    assert_eq!(variable("A="), Ok(("A".into(), String::new())));
    assert!(variable("A").is_err() && variable("=b").is_err());
}

/// The fault: texts of Rust, and of parsers: "0 is not in 1..100", "invalid digit found in string".
#[test]
fn no_value_is_refused_in_the_words_of_a_library() {
    use clap::{Command, CommandFactory};

    use crate::args::Arguments;

    fn refusals(command: &Command, of: &mut Vec<String>) {
        for arg in command
            .get_arguments()
            .filter(|arg| arg.get_num_args().is_some_and(|count| count.takes_values()))
        {
            for bad in [
                "",
                "0",
                "-1",
                "1.5",
                "x y",
                "/",
                "99999999999999999999",
                "5zz",
                "@",
                "1M",
            ] {
                let value = clap::Arg::new("value").long("value");
                let value = value.value_parser(arg.get_value_parser().clone());
                let alone = Command::new("nvvmm").arg(value);
                let line = ["nvvmm".to_owned(), format!("--value={bad}")];
                if let Err(error) = alone.try_get_matches_from(line) {
                    of.push(format!("{} {}", command.get_name(), error.render()));
                }
            }
        }
        for below in command.get_subcommands() {
            refusals(below, of);
        }
    }
    let mut root = Arguments::command();
    root.build();
    let mut told = Vec::new();
    refusals(&root, &mut told);
    assert!(told.len() > 100, "{}", told.len());
    for text in &told {
        for word in [
            "..",
            "invalid digit",
            "in string",
            "invalid utf",
            "overflow",
            "Err(",
            "os error",
        ] {
            let cause = text.split(": ").skip(2).collect::<Vec<_>>().join(": ");
            assert!(!cause.contains(word), "{word}: {text}");
        }
    }
}

#[test]
fn names_and_times_are_refused_with_the_reason() {
    for (text, reason) in [
        ("", "the name is empty"),
        ("a/b", "'/' cannot be in a name: use A-Z a-z 0-9 . _ - @"),
        ("a b", "a blank cannot be in a name"),
        ("-x", "a name cannot begin with '-'"),
        ("@1", "a name cannot begin with '@'"),
        (
            &"s".repeat(129),
            "the name has 129 characters, and 128 are allowed",
        ),
    ] {
        let told = snapshot_name(text).unwrap_err();
        assert!(told.starts_with(reason), "{text}: {told}");
    }
    assert!(
        vm_name("web@1")
            .unwrap_err()
            .contains("use A-Z a-z 0-9 . _ -")
    );
    for (text, reason) in [
        ("10", "the unit is missing: for example 10ms or 10s"),
        ("fast", "this is not a time: for example 10ms"),
        ("1ns", "1ns is too short: the shortest time is 1us, or 0"),
        ("2y", "2y is too long: the longest time is a year"),
    ] {
        assert_eq!(&period(text).unwrap_err()[..reason.len()], reason);
    }
}

#[test]
fn a_pattern_of_names_is_quoted_text_with_wildcards() {
    for good in ["*", "web-*", "w?b", "[a-d]*", "web[!1]"] {
        assert!(
            matches!(vm_names(good), Ok(NamePattern::Pattern(_))),
            "{good}"
        );
        assert!(
            matches!(snapshot_names(good), Ok(NamePattern::Pattern(_))),
            "{good}"
        );
    }
    assert_eq!(vm_names("web"), Ok(NamePattern::Name("web".into())));
    assert_eq!(
        snapshot_names("web@7"),
        Ok(NamePattern::Name("web@7".into()))
    );
    assert!(matches!(
        snapshot_names("web@*"),
        Ok(NamePattern::Pattern(_))
    ));
    for wrong in ["web@*", "a/*", "../*", "[", "a*\n", "*{a,b}", ""] {
        assert!(vm_names(wrong).is_err(), "{wrong}");
    }
    assert!(snapshot_names("***").is_err() && snapshot_names("]").is_ok());
}

#[test]
fn the_rule_of_names_has_the_character_of_checkpoints_where_it_is_allowed() {
    assert!(snapshot_name("web@7").is_ok());
    assert!(snapshot_name("a/b").unwrap_err().contains('@'));
    assert!(snapshot_names("a/*").unwrap_err().contains('@'));
    assert!(!vm_names("a/*").unwrap_err().contains('@'));
    assert_eq!(
        new_snapshot_name("web*"),
        Err("a new snapshot has one name, and no pattern".to_owned())
    );
}

#[test]
fn a_time_limit_is_a_duration_or_seconds() {
    assert_eq!(time_limit("90"), Ok(Duration::from_secs(90)));
    assert_eq!(time_limit("2m"), Ok(Duration::from_secs(120)));
    assert_eq!(time_limit("0"), Ok(Duration::ZERO));
    for wrong in ["", "-1", "soon", "900000000000", "2y"] {
        assert!(time_limit(wrong).is_err(), "{wrong}");
    }
}
