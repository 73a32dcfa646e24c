//! Programs that know nothing of this are captured in the middle of their work and restarted: what they put out is the same as of a run that
//! nobody interrupted.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use nvvmm_process::{Afterwards, CaptureOptions, CopiedPages, Frozen, Image, RestartOptions, check, restart};
use tempfile::TempDir;

use crate::harness::{can_run, one_at_a_time, spawn_alone};

/// How long it has computed when it is captured.
const WORKED: Duration = Duration::from_millis(100);
const CAPTURES: usize = 3;

fn command(directory: &Path, program: &[&str]) -> Command {
    let open = |name: &str| File::open(directory.join(name)).expect("an input");
    let create = |name: &str| File::create(directory.join(name)).expect("an output");
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).current_dir(directory);
    command
        .stdin(open("input"))
        .stdout(create("output"))
        .stderr(create("errors"));
    command
}

/// The time that a process has computed.
fn worked(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let behind_name = stat.rsplit(')').next().expect("a name");
    let words: Vec<&str> = behind_name.split_ascii_whitespace().collect();
    let ticks: u64 =
        words[11].parse::<u64>().expect("a number") + words[12].parse::<u64>().expect("a number");
    Duration::from_millis(ticks * 10)
}

/// Whether it has ended; it waits to be reaped.
fn is_over(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    status.contains("State:\tZ")
}

fn outcome(directory: &Path) -> (Vec<u8>, String) {
    let read = |name: &str| std::fs::read(directory.join(name)).expect("an output");
    (
        read("output"),
        String::from_utf8_lossy(&read("errors")).into_owned(),
    )
}

/// Runs a program to its end, once as usual and once through captures and restarts.
fn goes_on(program: &[&str], input: &[u8]) {
    if !can_run() {
        return;
    }
    if Command::new(program[0]).arg("--version").output().is_err() {
        eprintln!("SKIPPED: {} is not here", program[0]);
        return;
    }
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    std::fs::write(directory.join("input"), input).expect("an input");
    let status = command(directory, program).status().expect("it runs");
    let usual = outcome(directory);
    assert!(status.success() && !usual.0.is_empty(), "{}", usual.1);

    let pid = spawn_alone(&mut command(directory, program));
    let mut captures = 0;
    while captures < CAPTURES && !is_over(pid) {
        let until = Instant::now() + Duration::from_secs(60);
        while worked(pid) < WORKED && !is_over(pid) {
            assert!(Instant::now() < until, "it does not work");
            std::thread::sleep(Duration::from_millis(1));
        }
        if is_over(pid) {
            break;
        }
        let (image, mut pages) = capture(pid);
        let _alone = one_at_a_time();
        restart(&image, &RestartOptions::default(), &mut pages)
            .unwrap_or_else(|error| panic!("restart: {error}"));
        captures += 1;
    }
    assert!(captures > 0, "it was over before it was captured");
    let status = waitpid(Pid::from_raw(pid), None).expect("its end");
    let again = outcome(directory);
    assert_eq!(status, WaitStatus::Exited(Pid::from_raw(pid), 0), "{}", again.1);
    assert!(again == usual, "it has put out something else");
}

fn capture(pid: i32) -> (Image, CopiedPages) {
    let options = CaptureOptions::default();
    let _alone = one_at_a_time();
    check(pid, options).unwrap_or_else(|error| panic!("check: {error}"));
    let frozen = Frozen::new(pid, false).unwrap_or_else(|error| panic!("freeze: {error}"));
    let mut pages = CopiedPages::default();
    let captured = frozen.capture(options, &mut pages);
    let image = captured.unwrap_or_else(|error| panic!("capture: {error}")).image;
    frozen.end(Afterwards::Kill).expect("its end");
    waitpid(Pid::from_raw(pid), None).expect("its end");
    (image, pages)
}

#[test]
fn python_with_large_buffers() {
    let script = "
import hashlib, threading
buffer = bytearray(48 << 20)
digest = b'seed'
lock = threading.Lock()
def work(number):
    global digest
    for turn in range(12):
        block = hashlib.sha512(bytes([number, turn])).digest() * (1 << 12)
        for at in range(number * (16 << 20), (number + 1) * (16 << 20), len(block)):
            old = int.from_bytes(buffer[at:at + 64], 'little')
            buffer[at:at + len(block)] = block
            buffer[at:at + 8] = (old * 6364136223846793005 + turn & (1 << 64) - 1).to_bytes(8, 'little')
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
squares = {number: str(number * number) for number in range(400000)}
print(hashlib.sha256(buffer).hexdigest(), sum(len(text) for text in squares.values()))
for turn in range(10):
    print(turn, hashlib.sha256(buffer + bytes([turn])).hexdigest())
";
    goes_on(&["/usr/bin/python3", "-c", script], b"");
}

#[test]
fn sqlite_in_the_middle_of_a_workload() {
    let script = "
pragma temp_store = memory;
create table t(id integer primary key, word text, number integer);
create index w on t(word);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 150000)
insert into t select i, printf('word %d', i * 7919 % 100003), i * i % 1009 from n;
update t set number = number + length(word) where id % 3 = 0;
select number, count(*), sum(id) from t group by number order by 2 desc, 1 limit 20;
delete from t where id % 5 = 0;
select a.word, count(*) from t a join t b on a.word = b.word group by a.word order by 2 desc, 1 limit 20;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 3000000) select sum(i * i % 7), count(*) from n;
pragma integrity_check;
";
    goes_on(&["sqlite3", ":memory:"], script.as_bytes());
}

#[test]
fn xz_with_two_threads() {
    let mut state = 1u64;
    let text: Vec<u8> = (0..4 << 20)
        .flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{:x} ", state >> 52).into_bytes()
        })
        .take(8 << 20)
        .collect();
    goes_on(&["xz", "-T2", "-1", "--block-size=1MiB", "-c"], &text);
}
