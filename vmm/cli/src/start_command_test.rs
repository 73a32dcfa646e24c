use nvvmm::control::life::{LifeFile, LifeStart};

use super::*;

fn life(arguments: Option<&[&str]>, directory: Option<&str>) -> Life {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    let owned = arguments.map(|all| all.iter().map(|&one| one.to_owned()).collect());
    let start = LifeStart {
        directory: directory.map(str::to_owned),
        ..LifeStart::now("web", owned)
    };
    LifeFile::create(&path, &start).unwrap();
    Life::read(&path).unwrap().unwrap()
}

#[test]
fn the_arguments_of_a_record_are_those_of_a_command_line() {
    let kept = [
        "-v",
        "run",
        "--kernel",
        "k",
        "--cmdline",
        "quiet -x",
        "--memory",
        "64M",
    ];
    let Command::Run(run) = command_of(&life(Some(&kept), None)).unwrap() else {
        panic!("it was run");
    };
    assert_eq!((run.cmdline.as_str(), run.memory), ("quiet -x", 64 << 20));
}

#[test]
fn a_record_that_no_vm_can_be_started_from_is_refused_in_words() {
    let refused = |life: &Life, why: &str| {
        let error = command_of(life)
            .and_then(|_| go_to_directory(life))
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.message.contains(why), "{error}");
        assert!(error.remedy.unwrap().contains("--name web"));
    };
    refused(&life(None, Some("/")), "too long, or not UTF-8");
    refused(
        &life(Some(&["run", "--fly"]), Some("/")),
        "does not take its arguments",
    );
    let usual: &[&str] = &["run", "--kernel", "k"];
    refused(&life(Some(usual), None), "the directory");
    refused(
        &life(Some(usual), Some("/no/such/directory")),
        "/no/such/directory",
    );
}
