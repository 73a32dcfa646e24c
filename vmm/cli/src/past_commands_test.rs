use nvvmm::control::life::{LifeFile, LifeStart};

use super::*;

fn life(end: Option<(End, Option<&str>)>) -> Life {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    let start = LifeStart {
        snapshot: Some("base".into()),
        pool: Some("/dev/shm/p".into()),
        ..LifeStart::now("web", Some(vec!["restore".into(), "base".into()]))
    };
    let file = LifeFile::create(&path, &start).unwrap();
    file.running();
    file.rebooted(2);
    if let Some((end, text)) = end {
        file.ended(end, text);
    }
    Life::read(&path).unwrap().unwrap()
}

#[test]
fn each_end_has_its_words() {
    let text = |end| end_text(&life(end));
    assert_eq!(
        text(Some((End::PoweredOff, None))),
        "the guest switched itself off"
    );
    assert_eq!(text(Some((End::Rebooted, None))), "the guest rebooted");
    assert_eq!(text(Some((End::Stopped, None))), "stopped");
    assert_eq!(text(Some((End::Snapshotted, Some("s")))), "snapshot s");
    assert_eq!(
        text(Some((End::Failed, Some("no memory")))),
        "failed: no memory"
    );
    assert_eq!(
        text(Some((End::TripleFault, Some("vCPU 0")))),
        "triple fault: vCPU 0"
    );
    assert_eq!(text(None), "the VM process was killed");
}

#[test]
fn a_vm_that_ended_is_a_row_and_an_object() {
    let killed = life(None);
    let shown = row(&killed);
    assert_eq!((shown.state.as_str(), shown.ended.as_str()), ("ended", "-"));
    assert_eq!((shown.from.as_str(), shown.reboots.as_str()), ("base", "2"));
    let of = |life: &Life| serde_json::to_value(Vm::ended(life)).unwrap();
    let killed = of(&killed);
    assert_eq!(
        (&killed["vm"], &killed["state"]),
        (&"web".into(), &"ended".into())
    );
    assert_eq!(killed["end"]["reason"], "killed");
    assert!(killed["end"]["ended"].is_null() && killed["end"]["ended_unix_ns"].is_null());
    assert_eq!(killed["origin"]["snapshot"], "base");
    let ended = of(&life(Some((End::PoweredOff, None))));
    assert_eq!(
        (&ended["end"]["reason"], &ended["reboot_count"]),
        (&"powered-off".into(), &2.into())
    );
    assert_eq!(
        ended["end"]["arguments"],
        serde_json::json!(["restore", "base"])
    );
    assert!(ended["end"]["ended"].as_str() > ended["end"]["started"].as_str());
}

#[test]
fn what_a_guest_wrote_does_nothing_to_a_terminal() {
    let said = for_terminal(b"\x1b[0;32mOK\x1b[0m\r\nlogin: \x1b]0;title\x07\x1b[2J\xff\n\x1b[3");
    assert_eq!(said, "OK\nlogin: \\x1b]0;title\\x07\u{fffd}\n");
}

#[test]
fn a_log_that_begins_anew_is_read_from_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "one\n").unwrap();
    let mut log = Log {
        before: None,
        newest: Some(File::open(&path).unwrap()),
        read: 0,
    };
    assert_eq!(log.new_bytes().unwrap(), b"one\n");
    assert_eq!(log.new_bytes().unwrap(), b"");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    file.write_all(b"two\n").unwrap();
    assert_eq!(log.new_bytes().unwrap(), b"two\n");
    file.set_len(0).unwrap();
    file.write_all(b"3\n").unwrap();
    assert_eq!(log.new_bytes().unwrap(), b"3\n");
}
