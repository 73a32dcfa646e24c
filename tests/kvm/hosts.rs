//! A snapshot that was pushed on one host runs on four others at once, while it arrives from afar
//! and the first host is gone. The hosts are network namespaces of this machine.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nvvmm_test_profile::sized;
use nvvmm_tests::{Faults, FaultyServer, Host, Medium, SnapshotMemory, Vm};

/// Longest wait for all memory.
const PATIENCE: Duration = Duration::from_secs(120);
/// Hosts that restore, and the one that pushes.
const HOSTS: [&str; 5] = ["0", "1", "2", "3", "4"];
const BRIDGE: &str = "nvvmm-hosts";
const SERVER: &str = "10.214.254.254";

/// Namespaces that are joined by a bridge, on which the store's server is.
struct Network {
    /// Delay of each host's link, in ms.
    is_delayed: bool,
}

fn ip(arguments: &[&str]) -> bool {
    let done = Command::new("ip").args(arguments).output();
    done.is_ok_and(|done| done.status.success())
}

fn namespace(host: &str) -> String {
    format!("nvvmm-host-{host}")
}

impl Network {
    fn new() -> Network {
        remove();
        let made = |arguments: &[&str]| assert!(ip(arguments), "ip {arguments:?}");
        made(&["link", "add", BRIDGE, "type", "bridge"]);
        made(&["addr", "add", &format!("{SERVER}/24"), "dev", BRIDGE]);
        made(&["link", "set", BRIDGE, "up"]);
        let mut is_delayed = true;
        for host in HOSTS {
            let (space, outside) = (namespace(host), format!("nvvmm-h{host}"));
            made(&["netns", "add", &space]);
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &space];
            made(&[&["link", "add", &outside][..], &peer].concat());
            made(&["link", "set", &outside, "master", BRIDGE, "up"]);
            let address = format!("10.214.254.1{host}/24");
            made(&["-n", &space, "addr", "add", &address, "dev", "eth0"]);
            made(&["-n", &space, "link", "set", "eth0", "up"]);
            let mut delay = Command::new("tc");
            delay.args(["qdisc", "add", "dev", &outside, "root", "netem"]);
            let delayed = delay.args(["delay", "10ms"]).output();
            is_delayed &= delayed.is_ok_and(|done| done.status.success());
        }
        Network { is_delayed }
    }
}

fn remove() {
    for host in HOSTS {
        ip(&["netns", "del", &namespace(host)]);
    }
    ip(&["link", "del", BRIDGE]);
}

impl Drop for Network {
    fn drop(&mut self) {
        remove();
    }
}

fn can_be_run() -> bool {
    let is_lazy = !Medium::chosen().maps_whole_chunks();
    let has_ip = Command::new("ip").arg("-V").output().is_ok();
    let can = sized(false, true) && nix::unistd::geteuid().is_root() && has_ip && is_lazy;
    if !can {
        println!("SKIPPED: it is for the nightly run, needs root and ip(8), and a lazy medium");
    }
    can
}

fn host(number: &str, server: &FaultyServer) -> Host {
    let host = Host::new(320).with_variables(server.variables());
    host.in_network(&namespace(number))
}

/// Pushes a snapshot on the first host, which is gone afterwards. Digest of its memory.
fn push_and_go(server: &FaultyServer) -> String {
    let source = host("0", server);
    let mut vm = source.boot_bare_metal(96, 2);
    vm.ask("fill 64 7");
    let digest = vm.ask("digest all");
    vm.snapshot("one");
    source.run(&["push", "one", "s3://b/store"]).ok();
    vm.kill();
    drop(source);
    assert!(ip(&["netns", "del", &namespace("0")]));
    digest
}

#[test]
fn a_snapshot_of_a_host_that_is_gone_runs_on_four_others_at_once() {
    if !can_be_run() {
        return;
    }
    let network = Network::new();
    let place = tempfile::tempdir().unwrap();
    let server = FaultyServer::start_at(Path::new(place.path()), SERVER);
    if !network.is_delayed {
        println!("this kernel has no netem: the server waits instead");
        server.set(Faults {
            latency: Duration::from_millis(20),
            ..Faults::default()
        });
    }
    let digest = push_and_go(&server);
    let hosts: Vec<Host> = HOSTS[1..].iter().map(|to| host(to, &server)).collect();
    std::thread::scope(|scope| {
        for host in &hosts {
            let digest = &digest;
            scope.spawn(move || {
                let mut vm = host.restore("s3://b/store/one", &[]);
                assert_eq!(&vm.ask("digest all"), digest);
                assert!(vm.ask("check all").contains("check ok"));
                wait_for_all(&vm);
                vm.stop();
                SnapshotMemory::read(host.pool(), "one").assert_one_instant("one");
                host.assert_pool_clean();
            });
        }
    });
}

fn wait_for_all(vm: &Vm<'_>) {
    let until = Instant::now() + PATIENCE;
    while !vm.status()["arriving"].is_null() {
        assert!(Instant::now() < until, "{}", vm.status());
        std::thread::sleep(Duration::from_millis(50));
    }
}
