use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const HELPER_DIR: &str = "NVVMM_TEST_REGISTRY";
const HUNG: Duration = Duration::from_secs(60);

fn registry() -> (tempfile::TempDir, RuntimeDir) {
    let root = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(&root.path().join("run")).unwrap();
    (root, dir)
}

fn given(name: &str) -> NameChoice {
    NameChoice::Given(name.to_owned())
}

/// Another process that claims "held" in `dir` and lives until it is killed.
fn hold_in_another_process(dir: &RuntimeDir) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "control::registry::registry_test::a_process_that_holds_a_name",
        ])
        .env(HELPER_DIR, &dir.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    // The socket file is made after the claim.
    while !dir.paths("held").control.exists() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the other process ended"
        );
        assert!(
            begun.elapsed() < HUNG,
            "the other process never claimed its name"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
#[ignore = "the other process of the tests here"]
fn a_process_that_holds_a_name() {
    let Some(path) = std::env::var_os(HELPER_DIR) else {
        return;
    };
    let dir = RuntimeDir::at(Path::new(&path)).unwrap();
    let claim = dir.claim(&given("held"), Path::new("/pool")).unwrap();
    let paths = claim.paths();
    for file in [
        &paths.console,
        &paths.vsock,
        &paths.agent,
        &paths.log_before,
    ] {
        fs::write(file, "").unwrap();
    }
    fs::write(&paths.control, "").unwrap();
    // Until killed, or until the test that started it is gone.
    let _ = io::stdin().read_line(&mut String::new());
}

#[test]
fn a_claim_is_listed_and_ends_with_its_holder() {
    let (_root, dir) = registry();
    let claim = dir.claim(&given("web"), Path::new("/pool")).unwrap();
    let entry = dir.find("web").unwrap();
    let record = entry.record.unwrap();
    assert_eq!(
        (record.name.as_str(), record.pid),
        ("web", std::process::id())
    );
    assert_eq!(record.pool, Path::new("/pool"));
    drop(claim);
    assert_eq!(dir.entries().unwrap().len(), 0);
    let left: Vec<_> = fs::read_dir(&dir.path)
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(left, [".lock"]);
}

#[test]
fn a_taken_name_is_refused_and_names_the_process() {
    let (_root, dir) = registry();
    let _claim = dir.claim(&given("web"), Path::new("/pool")).unwrap();
    let error = dir.claim(&given("web"), Path::new("/pool")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(
        error.message.contains(&std::process::id().to_string()),
        "{error}"
    );
    assert!(
        dir.find("web").is_ok(),
        "the refused claim left the entry alone"
    );
}

#[test]
fn made_up_names_are_the_first_free_ones() {
    let (_root, dir) = registry();
    let claim = |choice: &NameChoice| dir.claim(choice, Path::new("/pool")).unwrap();
    let first = claim(&NameChoice::MadeUp);
    let _second = claim(&given("vm-2"));
    let third = claim(&NameChoice::MadeUp);
    assert_eq!(
        (first.paths().name.as_str(), third.paths().name.as_str()),
        ("vm-1", "vm-3")
    );
    drop(first);
    assert_eq!(claim(&NameChoice::MadeUp).paths().name, "vm-1");
}

#[test]
fn made_up_names_are_unique_under_contention() {
    let (_root, dir) = registry();
    let claims: Vec<Claim> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| dir.claim(&NameChoice::MadeUp, Path::new("/pool")).unwrap()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut names: Vec<_> = claims.iter().map(|c| c.paths().name.clone()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 8);
    assert_eq!(dir.entries().unwrap().len(), 8);
}

#[test]
fn a_killed_process_leaves_a_stale_entry_that_goes_when_seen() {
    let (_root, dir) = registry();
    let mut child = hold_in_another_process(&dir);
    let record = dir.find("held").unwrap().record.unwrap();
    assert_eq!(record.pid, child.id());
    let error = dir.claim(&given("held"), Path::new("/pool")).unwrap_err();
    assert!(error.message.contains(&child.id().to_string()), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    let paths = dir.paths("held");
    fs::write(&paths.agent, "").unwrap();
    assert!(
        paths.control.exists() && paths.lock.exists(),
        "a killed process removes nothing"
    );
    assert_eq!(dir.entries().unwrap().len(), 0);
    assert!(
        !paths.control.exists()
            && !paths.console.exists()
            && !paths.vsock.exists()
            && !paths.agent.exists()
            && !paths.record.exists()
            && !paths.lock.exists()
    );
}

#[test]
fn the_name_of_a_killed_process_can_be_claimed() {
    let (_root, dir) = registry();
    let mut child = hold_in_another_process(&dir);
    child.kill().unwrap();
    child.wait().unwrap();
    let claim = dir.claim(&given("held"), Path::new("/other")).unwrap();
    assert!(
        !claim.paths().control.exists(),
        "a stale socket would make bind fail"
    );
    assert!(!claim.paths().agent.exists());
    assert_eq!(
        dir.find("held").unwrap().record.unwrap().pool,
        Path::new("/other")
    );
}

#[test]
fn an_unreadable_record_is_no_obstacle() {
    let (_root, dir) = registry();
    let claim = dir.claim(&given("web"), Path::new("/pool")).unwrap();
    for record in [
        &b"{"[..],
        b"",
        b"\xff",
        br#"{"version":99,"name":"web","pid":1,"pool":"/","started_unix_ms":0}"#,
    ] {
        fs::write(&claim.paths().record, record).unwrap();
        assert_eq!(dir.find("web").unwrap().record, None);
        let error = dir.claim(&given("web"), Path::new("/pool")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
    }
}

#[test]
fn an_unknown_name_gets_the_known_ones() {
    let (_root, dir) = registry();
    let _a = dir.claim(&given("alpha"), Path::new("/pool")).unwrap();
    let error = dir.find("alhpa").unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.remedy.unwrap().contains("alpha"));
}

#[test]
fn names_are_checked() {
    let longest = "a".repeat(VM_NAME_BYTES_MAX);
    for good in ["a", "vm-1", "A.b_c-9", "_x", longest.as_str()] {
        check_vm_name(good).unwrap();
    }
    let too_long = "a".repeat(VM_NAME_BYTES_MAX + 1);
    for bad in [
        "",
        ".",
        "..",
        ".hidden",
        "-x",
        "a/b",
        "a b",
        "ä",
        "a\n",
        too_long.as_str(),
    ] {
        assert_eq!(
            check_vm_name(bad).unwrap_err().kind,
            ErrorKind::Usage,
            "{bad:?}"
        );
    }
}

#[test]
fn a_directory_open_to_others_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run");
    RuntimeDir::at(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    let error = RuntimeDir::at(&path).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.remedy.unwrap().contains("chmod 700"));
}

#[test]
fn a_link_or_a_file_in_the_place_of_the_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let real = root.path().join("real");
    RuntimeDir::at(&real).unwrap();
    let link = root.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    assert_eq!(RuntimeDir::at(&link).unwrap_err().kind, ErrorKind::Usage);
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(RuntimeDir::at(&file).unwrap_err().kind, ErrorKind::Usage);
}

#[test]
fn a_path_too_long_for_a_socket_is_refused_with_a_remedy() {
    let root = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(&root.path().join("d".repeat(90))).unwrap();
    let error = dir.claim(&given("web"), Path::new("/pool")).unwrap_err();
    assert!(error.message.contains("107 bytes"), "{error}");
    assert!(error.remedy.unwrap().contains("NVVMM_RUNTIME_DIR"));
    assert_eq!(dir.entries().unwrap().len(), 0);
}

#[test]
fn a_stopped_process_that_has_the_registry_locked_is_named() {
    let (_root, dir) = registry();
    drop(dir.entries().unwrap());
    let lock = dir.path.join(".lock");
    let mut holder = Command::new("flock")
        .arg("--no-fork")
        .arg(&lock)
        .args(["sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let found = lock.metadata().unwrap();
    while flock_holder(&found).unwrap() != Some(holder.id()) {
        std::thread::yield_now();
    }
    let pid = nix::unistd::Pid::from_raw(holder.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let error = dir.entries().unwrap_err();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(
        error
            .message
            .contains(&format!("process {pid} (sleep 1000), which is stopped")),
        "{error}"
    );
    assert!(dir.entries().unwrap().is_empty());
}
