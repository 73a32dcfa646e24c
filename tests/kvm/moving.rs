//! A snapshot that is sent and received runs in the other pool as it would in its own.

use std::{
    fs::{File, Permissions},
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nvvmm_tests::{Host, Medium, Outcome, SnapshotMemory, schema};
use serde_json::Value;

/// Longest wait for a command.
const PATIENCE: Duration = Duration::from_secs(120);

/// Reports of both ends of a pipe.
struct Moved {
    sent: Value,
    received: Value,
}

/// Runs `nvvmm send ... | nvvmm receive ...`.
fn through_a_pipe(from: &Host, send: &[&str], to: &Host, receive: &[&str]) -> Moved {
    let send: Vec<&str> = ["send", "--json"].iter().chain(send).copied().collect();
    let mut sender = from
        .command(&send)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nvvmm send starts");
    let receive: Vec<&str> = ["receive", "--json"]
        .iter()
        .chain(receive)
        .copied()
        .collect();
    let mut receiver = to.command(&receive);
    receiver.stdin(sender.stdout.take().expect("it is piped"));
    let received = Outcome::of(receiver).json();
    let sent = sender.wait_with_output().expect("nvvmm send ends");
    let report = String::from_utf8_lossy(&sent.stderr);
    assert!(sent.status.success(), "{report}");
    let sent = serde_json::from_str(&report).unwrap_or_else(|e| panic!("{e}: {report}"));
    schema::assert_valid(&["send"], &sent);
    schema::assert_valid(&["receive"], &received);
    Moved { sent, received }
}

fn bytes_of(report: &Value, key: &str) -> u64 {
    report[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {report}"))
}

fn frames(report: &Value, key: &str) -> u64 {
    bytes_of(report, key) / 4096
}

/// Restores a snapshot. Its guest's memory must have this digest.
fn assert_runs(host: &Host, snapshot: &str, digest: &str) {
    let mut vm = host.restore(snapshot, &[]);
    assert_eq!(vm.ask("digest all"), digest, "{snapshot}");
    assert!(vm.ask("check").contains("check ok"), "{snapshot}");
    vm.ask("write 0 600 3");
    assert!(
        vm.ask("check").contains("check ok"),
        "{snapshot}, written to"
    );
    vm.stop();
}

/// A directory for streams and keys.
fn files() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes a key file for its owner alone.
fn write_key(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn listed(host: &Host, name: &str) -> Option<Value> {
    let all = host.json(&["snapshots"]);
    let all = all.as_array().unwrap();
    all.iter().find(|entry| entry["snapshot"] == name).cloned()
}

/// Media to which a snapshot on `media[from]` is sent: all others, or a second pool on the only
/// one. If some are persistent memory, only pairs with such a medium are tested, each once: other
/// hosts test the rest.
fn targets(media: &[Medium], from: usize) -> Vec<&Medium> {
    let emulated = media.iter().any(Medium::is_persistent_memory);
    let is_target = |to: usize| {
        let persistent = [from, to]
            .iter()
            .any(|&index| media[index].is_persistent_memory());
        match emulated {
            _ if media.len() == 1 => true,
            true => from < to && persistent,
            false => from != to,
        }
    };
    (0..media.len())
        .filter(|&to| is_target(to))
        .map(|to| &media[to])
        .collect()
}

#[test]
fn a_snapshot_goes_through_a_pipe_between_any_two_media_and_back() {
    let media = Medium::all();
    for (index, from) in media.iter().enumerate() {
        let targets = targets(&media, index);
        if targets.is_empty() {
            continue;
        }
        let source = Host::on(from, 192);
        let mut vm = source.boot_bare_metal(32, 2);
        vm.ask("fill 14 1");
        vm.ask("write 5 900 3");
        let digest = vm.ask("digest all");
        vm.snapshot("there");
        vm.stop();
        for to in targets {
            println!("{} to {} and back", from.name(), to.name());
            let target = Host::on(to, 192);
            let Moved { sent, received } = through_a_pipe(&source, &["there"], &target, &[]);
            assert_eq!(sent["sent_bytes"], received["received_bytes"]);
            assert_eq!(sent["stream_bytes"], received["stream_bytes"]);
            assert_eq!(sent["identity"], received["identity"]);
            assert!(
                (14 << 8..8192).contains(&frames(&sent, "sent_bytes")),
                "{sent}"
            );
            SnapshotMemory::read(target.pool(), "there").assert_one_instant("there");
            // A VM there changes the snapshot. Its changes come back as a difference.
            let mut vm = target.restore("there", &[]);
            assert_eq!(vm.ask("digest all"), digest);
            assert!(vm.ask("check").contains("check ok"));
            vm.ask("write 2 300 7");
            let changed = vm.ask("digest all");
            vm.snapshot("back");
            vm.stop();
            let Moved { sent, received } =
                through_a_pipe(&target, &["back", "--since", "there"], &source, &[]);
            assert_eq!(received["since"], "there");
            assert!((300..1200).contains(&frames(&sent, "sent_bytes")), "{sent}");
            assert_runs(&source, "back", &changed);
            source.run(&["rm", "back"]).ok();
            target.assert_pool_clean();
        }
        assert_runs(&source, "there", &digest);
        source.assert_pool_clean();
    }
}

#[test]
fn ten_differences_one_after_the_other_make_what_the_original_is() {
    let source = Host::new(256);
    let target = Host::new(256);
    let mut vm = source.boot_bare_metal(32, 2);
    vm.ask("fill 16 3");
    vm.snapshot("s0");
    through_a_pipe(&source, &["s0"], &target, &[]);
    let mut digests = vec![vm.ask("digest all")];
    for number in 1..=10 {
        vm.ask(&format!(
            "write {} {} {}",
            number * 11,
            20 * number,
            1 + number % 5
        ));
        digests.push(vm.ask("digest all"));
        let (name, before) = (format!("s{number}"), format!("s{}", number - 1));
        vm.snapshot(&name);
        let Moved { sent, received } =
            through_a_pipe(&source, &[&name, "--since", &before], &target, &[]);
        let sent = frames(&sent, "sent_bytes");
        assert!(
            (20 * number..20 * number + 300).contains(&sent),
            "{name}: {sent}"
        );
        assert_eq!(received["since"], *before);
    }
    vm.stop();
    let parent = |name: &str| listed(&target, name).unwrap()["parent_id"].clone();
    assert_eq!(parent("s7"), listed(&target, "s6").unwrap()["snapshot_id"]);
    target.assert_pool_clean();
    // Each is a complete snapshot, so the earlier ones can be removed.
    for number in 0..10 {
        target.run(&["rm", &format!("s{number}")]).ok();
    }
    target.assert_pool_clean();
    assert_runs(&target, "s10", &digests[10]);
    // The whole snapshot is the same memory, which the pool has already.
    let whole = through_a_pipe(&source, &["s10"], &target, &["--name", "whole"]).received;
    assert_eq!(
        (whole["like"].as_str(), frames(&whole, "stored_bytes")),
        (Some("s10"), 0)
    );
    let difference = target.json(&["diff", "s10", "whole"]);
    assert_eq!(
        (
            frames(&difference, "different_bytes"),
            frames(&difference, "alike_bytes")
        ),
        (0, 0)
    );
    assert_runs(&target, "whole", &digests[10]);
}

#[test]
fn an_encrypted_stream_is_for_who_has_the_key_and_refused_when_it_was_changed() {
    let source = Host::new(128);
    let target = Host::new(128);
    let files = files();
    let path = |name: &str| files.path().join(name);
    let (key, other, stream) = (path("key"), path("other"), path("stream"));
    write_key(&key, &format!("{}\n", "0123456789abcdef".repeat(4)));
    write_key(&other, &"f".repeat(64));
    let mut vm = source.boot_bare_metal(32, 1);
    vm.ask("fill 8 5");
    let digest = vm.ask("digest all");
    vm.snapshot("secret");
    vm.stop();
    let send = [
        "send",
        "secret",
        "--encrypt",
        text(&key),
        "--output",
        text(&stream),
    ];
    let sent = source.json(&send);
    let bytes = std::fs::read(&stream).unwrap();
    assert_eq!(bytes_of(&sent, "stream_bytes"), bytes.len() as u64);
    assert!(
        !bytes.windows(6).any(|window| window == b"secret"),
        "even the name is encrypted"
    );
    source.run(&send).refused(4, "exists");

    let receive =
        |stream: &Path, key: &Path| target.run(&["receive", text(stream), "--decrypt", text(key)]);
    receive(&stream, &other).refused(4, "the key is not the one");
    target
        .run(&["receive", text(&stream)])
        .refused(4, "the stream is encrypted");
    for at in [100, bytes.len() / 2, bytes.len() - 1] {
        let mut changed = bytes.clone();
        changed[at] ^= 4;
        std::fs::write(path("changed"), changed).unwrap();
        receive(&path("changed"), &key).refused(4, "the seal is broken");
        assert_eq!(
            target.json(&["snapshots"]).as_array().unwrap().len(),
            0,
            "byte {at}"
        );
    }
    target.assert_pool_clean();
    assert_eq!(target.pool_status()["snapshot_bytes"], 0);
    receive(&stream, &key).ok();
    assert_runs(&target, "secret", &digest);

    let plain = path("plain");
    source
        .run(&["send", "secret", "--output", text(&plain)])
        .ok();
    target.run(&["rm", "secret"]).ok();
    receive(&plain, &key).refused(4, "the stream is not encrypted");
    assert_eq!(target.pool_status()["snapshot_bytes"], 0);
}

#[test]
fn what_is_no_whole_stream_and_what_lacks_its_base_is_refused() {
    let source = Host::new(128);
    let target = Host::new(128);
    let files = files();
    let path = |name: &str| files.path().join(name);
    let mut vm = source.boot_bare_metal(32, 1);
    vm.ask("fill 8 5");
    vm.snapshot("a");
    vm.ask("write 0 100");
    vm.snapshot("b");
    vm.stop();
    let stream = path("b");
    source
        .run(&["send", "b", "--since", "a", "--output", text(&stream)])
        .ok();
    target
        .run(&["receive", text(&stream)])
        .refused(3, "which is not known in pool")
        .refused(3, "receive 'a' first");
    // Another snapshot with the same name does not count.
    let vm = target.boot_bare_metal(32, 1);
    vm.snapshot("a");
    vm.stop();
    target
        .run(&["receive", text(&stream)])
        .refused(3, "which is not known in pool");
    let whole = path("whole");
    source.run(&["send", "b", "--output", text(&whole)]).ok();
    target
        .run(&["receive", text(&whole), "--name", "a"])
        .refused(4, "is taken");
    let bytes = std::fs::read(&whole).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        std::fs::write(path("changed"), changed).unwrap();
        target.run(&["receive", text(&path("changed"))])
    };
    with(&|bytes| bytes[0] = 0).refused(4, "this is no stream");
    with(&|bytes| bytes.clear()).refused(1, "cut off");
    with(&|bytes| bytes[8] = 9).refused(4, "format version 9");
    with(&|bytes| bytes.push(0)).refused(4, "something follows its end");
    with(&|bytes| *bytes.last_mut().unwrap() ^= 1).refused(4, "the digest of record");
    with(&|bytes| {
        let half = bytes.len() / 2;
        bytes[half] ^= 1;
    })
    .refused(4, "the stream is refused");
    assert_eq!(
        target.json(&["snapshots"]).as_array().unwrap().len(),
        1,
        "only what was there"
    );
    target.assert_pool_clean();
    source
        .run(&["send", "b", "--since", "none"])
        .refused(3, "none");
}

#[test]
fn what_goes_to_a_pipe_that_nobody_reads_is_ended_by_a_signal() {
    let host = Host::new(128);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 8 5");
    vm.snapshot("a");
    vm.stop();
    for arguments in [&["send", "a"][..], &["export", "a", "--core", "-"]] {
        let mut child = host
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The command has begun, and has more output than a pipe holds.
        let mut pipe = child.stdout.take().unwrap();
        pipe.read_exact(&mut [0]).unwrap();
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        let ended = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.signal() == Some(Signal::SIGINT as i32) && told.contains("interrupted"),
            "{arguments:?}: {told}"
        );
        host.assert_pool_clean();
    }
    host.run(&["rm", "a"]).ok();
    assert_eq!(host.pool_status()["snapshot_bytes"], 0);
}

/// A receiver that has read a part of a stream, has kept some of it, and waits for the rest.
fn begun(host: &Host, part: &[u8]) -> Child {
    let mut child = host
        .command(&["receive"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nvvmm receive starts");
    let input = child.stdin.as_mut().expect("it is piped");
    input.write_all(part).expect("it reads");
    let until = Instant::now() + PATIENCE;
    while host.pool_status()["snapshot_bytes"].as_u64() < Some(32 << 20) {
        assert!(
            Instant::now() < until,
            "nothing is kept: {}",
            host.pool_status()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// A receiver ends by a signal after a part of the stream. The pool keeps an incomplete snapshot
/// that nothing can use.
fn interrupt_a_reception(target: &Host, part: &[u8], signal: Signal) {
    let child = begun(target, part);
    kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
    let ended = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(
        (ended.status.signal(), told.contains("interrupted")),
        (Some(signal as i32), signal != Signal::SIGKILL),
        "{signal}: {told}"
    );
    target.assert_pool_clean();
    let status = target.pool_status();
    assert_eq!(
        (&status["incomplete_count"], &status["leased_bytes"]),
        (&1.into(), &0.into()),
        "{status}"
    );
    assert_eq!(listed(target, "large").unwrap()["incomplete"], true);
    assert!(
        target
            .run(&["snapshots"])
            .ok()
            .stdout
            .contains("vm, incomplete")
    );
    target
        .run(&["restore", "large", "--detach"])
        .refused(4, "is incomplete");
    target
        .run(&["send", "large", "--output", "/dev/null"])
        .refused(4, "is incomplete");
    target
        .run(&["diff", "large", "large"])
        .refused(4, "is incomplete");
}

#[test]
fn a_reception_that_was_interrupted_or_killed_goes_on_and_stores_nothing_twice() {
    let source = Host::new(256);
    let files = files();
    let stream: PathBuf = files.path().join("stream");
    let mut vm = source.boot_bare_metal(96, 2);
    vm.ask("fill 64 5");
    let digest = vm.ask("digest all");
    vm.snapshot("large");
    vm.stop();
    source
        .run(&["send", "large", "--output", text(&stream)])
        .ok();
    let bytes = std::fs::read(&stream).unwrap();

    let whole = Host::new(192);
    let flat = whole.json(&["receive", text(&stream)]);
    assert_eq!(flat["resumed"], false);

    let target = Host::new(192);
    for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM] {
        interrupt_a_reception(&target, &bytes[..bytes.len() * 3 / 4], signal);
    }
    // The beginning of the stream alone is refused. It does not remove the blocks that were kept.
    let mut cut = target.command(&["receive"]);
    let beginning = files.path().join("beginning");
    std::fs::write(&beginning, &bytes[..bytes.len() / 8]).unwrap();
    cut.stdin(File::open(&beginning).unwrap());
    Outcome::of(cut).refused(1, "cut off");

    let resumed = target.json(&["receive", text(&stream)]);
    assert_eq!(resumed["resumed"], true, "{resumed}");
    let (stored, found) = (
        frames(&resumed, "stored_bytes"),
        frames(&resumed, "found_bytes"),
    );
    assert!(found >= 8192 && stored > 0, "{resumed}");
    assert_eq!(listed(&target, "large").unwrap()["incomplete"], false);
    for key in [
        "snapshot_bytes",
        "leased_bytes",
        "orphan_count",
        "incomplete_count",
        "snapshot_count",
    ] {
        assert_eq!(target.pool_status()[key], whole.pool_status()[key], "{key}");
    }
    target.assert_pool_clean();
    assert_runs(&target, "large", &digest);
    target
        .run(&["receive", text(&stream)])
        .refused(4, "is taken");

    // The kept blocks can be removed.
    target.run(&["rm", "large"]).ok();
    let mut child = begun(&target, &bytes[..bytes.len() * 3 / 4]);
    target
        .run(&["receive", text(&stream)])
        .refused(4, "is being received by process");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    target.run(&["rm", "large"]).ok();
    target.assert_pool_clean();
    assert_eq!(target.pool_status()["snapshot_bytes"], 0);
}
