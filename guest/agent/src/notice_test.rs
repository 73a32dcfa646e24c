use super::*;

fn restored() -> Restored {
    Restored {
        snapshot: "base".into(),
        vm: "copy".into(),
        role: Role::Copy,
        slept_ns: 1_500_000_000,
        host_time_ns: 42,
        step_clock: false,
        seed: [0; 32],
    }
}

fn script(places: &Places, name: &str, mode: u32, text: &str) {
    let path = places.hooks.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_file_and_the_hooks_tell_of_the_restore() {
    let directory = tempfile::tempdir().unwrap();
    let places = Places {
        file: directory.path().join("run/restored"),
        hooks: directory.path().join("hooks"),
    };
    assert_eq!(
        tell_guest(&restored(), &places),
        Vec::<String>::new(),
        "no hooks are no failure"
    );
    let expected = "NVVMM_SNAPSHOT=base\nNVVMM_VM=copy\nNVVMM_ROLE=copy\n\
                    NVVMM_SLEPT_NS=1500000000\nNVVMM_HOST_TIME_NS=42\n";
    assert_eq!(fs::read_to_string(&places.file).unwrap(), expected);

    fs::create_dir(&places.hooks).unwrap();
    let log = directory.path().join("log");
    let say = format!("echo $0 $NVVMM_SNAPSHOT $NVVMM_ROLE >>{}", log.display());
    script(&places, "20-second", 0o755, &say);
    script(&places, "10-first", 0o755, &format!("{say}; exit 3"));
    script(&places, "30-not-executable", 0o644, &say);
    fs::create_dir(places.hooks.join("40-directory")).unwrap();
    let failures = tell_guest(&restored(), &places);
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(
        failures[0].contains("10-first") && failures[0].contains('3'),
        "{failures:?}"
    );
    let hooks = places.hooks.display();
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        format!("{hooks}/10-first base copy\n{hooks}/20-second base copy\n")
    );
}

#[test]
fn a_file_that_cannot_be_written_is_told_and_the_hooks_run_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let places = Places {
        file: "/proc/nvvmm/restored".into(),
        hooks: directory.path().to_owned(),
    };
    let log = directory.path().join("log");
    script(
        &places,
        "hook",
        0o755,
        &format!("echo ran >{}", log.display()),
    );
    let failures = tell_guest(&restored(), &places);
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].contains("/proc/nvvmm/restored"), "{failures:?}");
    assert!(log.exists());
}
