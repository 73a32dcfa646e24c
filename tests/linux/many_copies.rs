//! Many copies of one snapshot: each is reached at a port of its own, and each has other random
//! numbers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nvvmm_test_profile::sized;
use nvvmm_tests::agent::wait_for;
use nvvmm_tests::witness::{boot_to_shell, boot_with_options};
use nvvmm_tests::{Host, Vm};

use crate::network::{give_the_host_a_network, go_online, wait_for_name};

const COPIES: u16 = 20;
const FIRST_PORT: u16 = 8301;
/// Longest wait for a line of a guest's shell.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn twenty_copies_with_one_address_inside_serve_at_ports_of_their_own() {
    give_the_host_a_network();
    let host = Host::new(1536);
    let vm = boot_with_options(&host, 96, 1, &["--net"]);
    go_online(&host, &vm, "original");
    vm.snapshot("base");
    vm.stop();
    let begun = Instant::now();
    let copies: Vec<(Vm<'_>, String)> = (0..COPIES)
        .map(|number| {
            let address = format!("127.0.0.1:{}", FIRST_PORT + number);
            let publish = format!("{address}:80");
            (host.restore("base", &["-p", &publish]), address)
        })
        .collect();
    println!("{COPIES} copies run after {:?}", begun.elapsed());
    // Their guests share one emulated processor: an agent may take long to answer.
    for (copy, address) in &copies {
        let name = format!(
            "ip -4 -o addr show dev eth0 | grep -q 'inet 10.9.9.2/' && echo {address} >/srv/name"
        );
        wait_for(&host, copy, &name);
    }
    println!("each has its name after {:?}", begun.elapsed());
    // All of them run while each is asked.
    for (_, address) in &copies {
        assert_eq!(wait_for_name(address), format!("{address}\n"));
    }
    println!("each has given its name after {:?}", begun.elapsed());
    let own: u64 = copies.iter().map(|(copy, _)| own_bytes(copy)).sum();
    println!("they have {} MiB of their own", own >> 20);
    copies.into_iter().for_each(|(copy, _)| copy.stop());
    host.assert_pool_clean();
}

fn own_bytes(vm: &Vm<'_>) -> u64 {
    vm.status()["ram"]["own_bytes"].as_u64().unwrap()
}

/// Has the shell on the console run a command, and gives what it prints behind `@`. The command
/// itself, which the console echoes, has no `@` in one piece.
fn typed(vm: &mut Vm<'_>, command: &str) -> String {
    vm.console().drain();
    vm.console().say(&format!("echo '@'\"@ $({command})\""));
    // A line has no spaces at its end.
    let line = vm.console().expect("@@", PATIENCE);
    let (_, said) = line.split_once("@@").unwrap();
    said.trim().to_owned()
}

#[test]
fn copies_without_an_agent_draw_different_random_numbers() {
    let host = Host::new(768);
    let mut vm = boot_to_shell(&host, 128);
    if typed(&mut vm, "ls -d /sys/bus/*/drivers/vmgenid/VMGENCTR:00").is_empty() {
        println!("the guest's kernel has no driver for VMGenID: nothing is tested");
        return;
    }
    typed(&mut vm, "killall nvvmm-agent");
    assert_eq!(typed(&mut vm, "pidof nvvmm-agent"), "");
    vm.snapshot("base");
    vm.stop();
    let count = sized(10, 50);
    let begun = Instant::now();
    let mut drawn = BTreeSet::new();
    for _ in 0..count {
        let mut copy = host.restore("base", &["--clock", "keep"]);
        // The kernel hears of its copy by an interrupt, and reseeds a moment later.
        std::thread::sleep(Duration::from_millis(500));
        let bytes = typed(
            &mut copy,
            "head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n'",
        );
        assert_eq!(bytes.len(), 64, "{bytes}");
        assert!(drawn.insert(bytes.clone()), "{bytes} was drawn before");
        copy.stop();
    }
    println!(
        "{count} copies drew {} numbers in {:?}",
        drawn.len(),
        begun.elapsed()
    );
    host.assert_pool_clean();
}
