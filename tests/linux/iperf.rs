//! Streams of iperf3 between a guest and its host: by several queues, both ways, and with a limit.

use std::process::{Child, Command, Stdio};

use nvvmm_tests::agent::output;
use nvvmm_tests::witness::boot_with_options;
use nvvmm_tests::{Host, Vm};
use serde_json::Value;

const PROGRAM: &str = "/usr/bin/iperf3";
const BRIDGE: &str = "10.6.6.1";
/// Less than an emulated host carries.
const LIMIT_BYTES_PER_S: f64 = 64.0 * 1024.0;
/// The part of a frame that is TCP's payload: that of one segment, or nearly all of a large one.
const PAYLOAD: (f64, f64) = (1448.0 / 1514.0, 1.0);

/// Runs `ip` on the host.
fn ip(command: &str) {
    let done = Command::new("ip").args(command.split(' ')).output();
    let done = done.expect("ip runs");
    assert!(done.status.success(), "ip {command}: {done:?}");
}

/// A VM whose card is at a bridge of the host, with iperf3 and the libraries that it needs.
fn boot<'h>(host: &'h Host, tap: &str, address: &str, options: &str) -> Vm<'h> {
    ip(&format!("tuntap add {tap} mode tap vnet_hdr multi_queue"));
    ip(&format!("link set {tap} master iperf-bridge up"));
    let net = format!("tap={tap},queues=2{options}");
    let vm = boot_with_options(host, 160, 2, &["--net", &net]);
    let linked = Command::new("ldd").arg(PROGRAM).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let words = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in words.chain([PROGRAM]) {
        let (directory, _) = file.rsplit_once('/').unwrap();
        output(host, &vm, &format!("mkdir -p {directory}"));
        host.run(&["cp", file, &format!("{}:{file}", vm.name)]).ok();
    }
    output(
        host,
        &vm,
        &format!(
            "chmod +x {PROGRAM} /lib64/* && ip addr add {address}/24 dev eth0 &&
             ip link set eth0 up"
        ),
    );
    vm
}

/// Has the guest measure. Gives the bytes per second that arrived.
fn measured(host: &Host, vm: &Vm<'_>, arguments: &str) -> f64 {
    let script = format!("{PROGRAM} -J -c {BRIDGE} {arguments}");
    let said: Value = serde_json::from_str(&output(host, vm, &script)).unwrap();
    let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
    bits.unwrap_or_else(|| panic!("{said}")) / 8.0
}

/// A server that ends with the test.
struct Server(Child);

impl Server {
    fn start() -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["-s", "-B", BRIDGE]).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn streams_go_both_ways_by_several_queues_and_keep_to_a_limit() {
    if !std::path::Path::new(PROGRAM).exists() {
        println!("SKIPPED: this host has no iperf3");
        return;
    }
    let host = Host::new(1024);
    ip("link add iperf-bridge type bridge");
    ip(&format!("addr add {BRIDGE}/24 dev iperf-bridge"));
    ip("link set iperf-bridge up");
    let _server = Server::start();
    let vm = boot(&host, "iperf0", "10.6.6.2", "");
    for way in ["", "-R"] {
        let rate = measured(&host, &vm, &format!("-P 4 -t 5 {way}"));
        println!("4 streams {way}: {:.1} MB/s", rate / 1e6);
        assert!(rate > 0.0);
    }
    let queues = output(&host, &vm, "ls -d /sys/class/net/eth0/queues/tx-*");
    assert_eq!(queues.lines().count(), 2, "{queues}");
    vm.stop();

    let vm = boot(&host, "iperf1", "10.6.6.3", ",rate=64K");
    for way in ["", "-R"] {
        // What was saved up is gone after some seconds, which are not counted.
        let rate = measured(&host, &vm, &format!("-O 4 -t 12 {way}")) / LIMIT_BYTES_PER_S;
        println!("limit {way}: payload of {rate:.3} of it");
        assert!(
            rate > PAYLOAD.0 * 0.95 && rate < PAYLOAD.1 * 1.05,
            "{way}: {rate}"
        );
    }
    vm.stop();
    host.assert_pool_clean();
}
