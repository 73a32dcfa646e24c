//! Network cards of confined VMs. The bare-metal guest has no driver for them.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nvvmm_test_profile::has_passt;
use nvvmm_tests::{Host, Vm, required};

fn boot<'h>(host: &'h Host, network: &[&str]) -> Vm<'h> {
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let what = [&["--kernel", kernel.to_str().unwrap()], network].concat();
    host.boot(&what, 16, 1)
}

#[test]
fn a_card_at_passt_is_snapshotted_and_its_copies_publish_ports_of_their_own() {
    if !has_passt() {
        return;
    }
    let host = Host::new(256);
    let free = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (first, second) = (free().port(), free().port());
    let publish = |port: u16| format!("127.0.0.1:{port}:80");
    let vm = boot(&host, &["-p", &publish(first)]);
    let listed = host.json(&["port", &vm.name]);
    assert_eq!(listed[0]["host_port"], first, "{listed}");
    assert!(TcpListener::bind(("127.0.0.1", first)).is_err());
    host.run(&["snapshot", &vm.name, "base"]).ok();
    let inside = host.json(&["inspect", "base"]);
    let slots = inside["saved_state"]["spec"]["slots"].as_array().unwrap();
    let card = slots.iter().find(|slot| slot["kind"] == "net").unwrap();
    let (card, known) = (&card["net"], &vm.status()["nets"][0]);
    assert_eq!(card["place"], "passt", "{card}");
    assert_eq!(card["mac"], known["mac"]);
    assert_eq!(card["mtu_bytes"], 65520);
    assert_eq!(card["ports"], known["ports"]);

    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let taken = [
        "run",
        "--kernel",
        kernel.to_str().unwrap(),
        "--detach",
        "-p",
    ];
    host.run(&[&taken[..], &[&publish(first)]].concat())
        .refused(4, &format!("port 127.0.0.1:{first} of the host (tcp)"));

    let copy = host.restore("base", &["-p", &publish(second)]);
    let (card, copied) = (&vm.status()["nets"][0], &copy.status()["nets"][0]);
    assert_eq!(copied["mac"], card["mac"]);
    assert_eq!(copied["ports"][0]["host_port"], second);
    let plain = host.restore("base", &[]);
    assert_eq!(plain.status()["nets"][0]["kind"], "passt");
    assert_eq!(host.json(&["port", &plain.name]), serde_json::json!([]));
    let down = host.restore("base", &["--net", "none"]);
    assert_eq!(down.status()["nets"][0]["is_connected"], false);
    host.run(&["rewind", &vm.name, "--to", "base"]).ok();
    for vm in [vm, copy, plain, down] {
        vm.stop();
    }
    host.assert_pool_clean();
}

#[test]
fn a_passt_that_ends_is_no_zombie_and_its_ports_are_told_closed() {
    if !has_passt() {
        return;
    }
    let host = Host::new(256);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let vm = boot(&host, &["-p", &format!("127.0.0.1:{port}:80")]);
    let passt = child_called(vm.pid, "passt");
    kill(Pid::from_raw(passt), Signal::SIGKILL).unwrap();
    let place = format!("/proc/{passt}");
    let is_over = || !std::path::Path::new(&place).exists();
    let told = (0..500).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let status = vm.status();
        let notice = status["notice"].as_str().map(str::to_owned);
        notice.filter(|_| is_over() && status["nets"][0]["is_connected"] == false)
    });
    assert!(told.is_some_and(|text| text.contains("(passt) is gone")));
    let ports = host.run(&["port", &vm.name]).ok();
    assert!(!ports.stdout.contains(&port.to_string()), "{ports:?}");
    assert!(ports.stderr.contains("its ports are closed"), "{ports:?}");
    assert_eq!(host.json(&["port", &vm.name]), serde_json::json!([]));
    vm.stop();
}

/// The child of a process that runs this program. passt gives itself a longer name on CPUs with
/// AVX2.
fn child_called(parent: i32, program: &str) -> i32 {
    let processes = std::fs::read_dir("/proc").unwrap();
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let found = numbers.into_iter().find(|number: &i32| {
        // "number (name) state parent ..."
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        let (name, rest) = stat.rsplit_once(')').unwrap_or_default();
        let its_parent = rest.split_whitespace().nth(1).unwrap_or_default();
        name.contains(program) && its_parent == parent.to_string()
    });
    found.unwrap_or_else(|| panic!("{parent} has no child '{program}'"))
}

#[test]
fn a_card_whose_network_ends_has_its_link_down_and_the_vm_runs_on() {
    let host = Host::new(256);
    let (mine, given) = UnixStream::pair().unwrap();
    fcntl(&given, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let fd = format!("fd={},mac=02:00:00:00:00:09,pps=1000", given.as_raw_fd());
    let vm = boot(&host, &["--net", &fd]);
    drop(given);
    let card = &vm.status()["nets"][0];
    assert_eq!(card["kind"], "fd");
    assert_eq!(card["mac"], "02:00:00:00:00:09");
    assert_eq!(card["rate_frame_count"], 1000);
    assert_eq!(card["is_connected"], true);
    drop(mine);
    let told = (0..500).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        vm.status()["notice"].as_str().map(str::to_owned)
    });
    assert!(
        told.unwrap()
            .contains("is gone, and the link of its card is down")
    );
    assert_eq!(vm.status()["state"], "running");
    host.run(&["snapshot", &vm.name, "base"]).ok();
    let restore = ["restore", "base", "--detach"];
    host.run(&restore).refused(4, "which is gone");
    host.run(&[&restore[..], &["--net", "tap=nowhere0"]].concat())
        .refused(3, "'nowhere0'");
    vm.stop();
}

#[test]
fn a_snapshot_without_a_card_gets_none() {
    let host = Host::new(256);
    let vm = boot(&host, &[]);
    assert_eq!(vm.status()["nets"], serde_json::json!([]));
    host.run(&["snapshot", &vm.name, "base", "--stop"]).ok();
    vm.wait_gone();
    host.run(&["restore", "base", "--detach", "--net"])
        .refused(4, "has no network card");
    host.restore("base", &["--net", "none"]).stop();
}
