//! Linux guests on a network: addresses, ports of the host, copies, rewinds.
//!
//! The KVM host gets a network of its own by `ip`: a dummy card that has the default route, and an
//! address that a guest can reach.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nvvmm_tests::{
    Host, Vm,
    agent::{output, sh, wait_for},
    required,
    witness::boot_with_options,
};

/// Longest wait for an answer of a guest on an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(60);
/// Address of the host that guests reach.
pub(crate) const SERVER: &str = "10.9.8.1";

/// Gives the host a card, once.
pub(crate) fn give_the_host_a_network() {
    for command in [
        "link add nvvmm-test type dummy",
        "addr add 10.9.9.2/24 dev nvvmm-test",
        "addr add 10.9.8.1/24 dev nvvmm-test",
        "addr add fd00:9::2/64 dev nvvmm-test nodad",
        "link set nvvmm-test up",
        "route add default via 10.9.9.1",
        "-6 route add default via fd00:9::1 dev nvvmm-test",
    ] {
        // What is there already is there.
        let done = Command::new("ip").args(command.split(' ')).output();
        println!("ip {command}: {:?}", done.expect("ip runs").status.code());
    }
}

/// Runs `scripts/netns.sh`.
fn netns(arguments: &[&str]) {
    let script = required("NVVMM_ROOT").join("scripts/netns.sh");
    let done = Command::new(script).args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

/// Has the guest ask for its address.
pub(crate) fn take_an_address(host: &Host, vm: &Vm<'_>) {
    let script = "ip link set eth0 up && udhcpc -i eth0 -n -q -t 20 -T 1 -s /bin/guest-dhcp &&
                  ip addr show eth0 && ip route";
    let said = output(host, vm, script);
    assert!(said.contains("10.9.9.2"), "{said}");
}

/// Has the guest ask for its address, and serve `/srv` at port 80.
pub(crate) fn go_online(host: &Host, vm: &Vm<'_>, name: &str) {
    take_an_address(host, vm);
    let script = format!(
        "mkdir -p /srv && echo {name} >/srv/name && cat /bin/busybox >/srv/large &&
         httpd -p 80 -h /srv"
    );
    output(host, vm, &script);
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The body of what a server sends for a path.
fn get(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(address.parse().unwrap())?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
    let head = head.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(answer.split_off(head + 4))
}

/// Waits until the guest behind a port of the host gives its name.
pub(crate) fn wait_for_name(address: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        match get(address, "/name") {
            Ok(name) if !name.is_empty() => return String::from_utf8(name).unwrap(),
            other => assert!(Instant::now() < until, "{address}: {other:?}"),
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_guest_serves_at_ports_of_the_host_and_its_copies_at_theirs() {
    give_the_host_a_network();
    let host = Host::new(1024);
    let options = ["--net", "-p", "127.0.0.1:8080:80", "-p", "[::1]:8180:80"];
    let vm = boot_with_options(&host, 128, 1, &options);
    go_online(&host, &vm, "original");
    assert_eq!(wait_for_name("127.0.0.1:8080"), "original\n");
    let ports = host.json(&["port", &vm.name]);
    assert_eq!(ports[0]["host_port"], 8080, "{ports}");
    assert_eq!(ports[0]["guest_port"], 80, "{ports}");

    // The guest reaches a server of the host by its address, and neither the host's loopback nor
    // the address of clouds' metadata.
    let server = TcpListener::bind((SERVER, 9000)).unwrap();
    let served = thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let large = std::fs::read("/bin/busybox").unwrap();
    let send = format!("nc -w 20 {SERVER} 9000 </srv/large");
    output(&host, &vm, &send);
    assert!(served.join().unwrap() == large, "the guest's bytes arrive");
    let _loopback = TcpListener::bind("127.0.0.1:9001").unwrap();
    for denied in ["169.254.169.254 80", "10.9.9.1 9001"] {
        let tried = sh(&host, &vm, &format!("nc -w 3 {denied} </dev/null"));
        assert_ne!(tried.code, 0, "{denied}: {tried:?}");
    }
    // IPv6, by router advertisement.
    let until = Instant::now() + PATIENCE;
    while get("[::1]:8180", "/name").is_err() {
        assert!(
            Instant::now() < until,
            "{}",
            output(&host, &vm, "ip -6 addr")
        );
    }

    // Ten snapshots while the guest sends: no byte of the original is lost.
    let fetching = thread::spawn(|| {
        let until = Instant::now() + Duration::from_secs(8);
        let mut fetched = Vec::new();
        while fetched.is_empty() || Instant::now() < until {
            fetched.push(get("127.0.0.1:8080", "/large").unwrap());
        }
        fetched
    });
    for number in 0..10 {
        vm.snapshot(&format!("s{number}"));
    }
    let fetched = fetching.join().unwrap();
    assert!(fetched.iter().all(|bytes| *bytes == large));
    println!("{} transfers during ten snapshots", fetched.len());

    // Copies have the address of the original inside, and ports of their own outside.
    let copies: Vec<_> = (1..=3)
        .map(|number| {
            let publish = format!("127.0.0.1:{}:80", 8080 + number);
            (host.restore("s9", &["-p", &publish]), 8080 + number)
        })
        .collect();
    for (copy, port) in &copies {
        assert_eq!(wait_for_name(&format!("127.0.0.1:{port}")), "original\n");
        output(&host, copy, &format!("echo {port} >/srv/name"));
    }
    for (copy, port) in copies {
        assert_eq!(
            wait_for_name(&format!("127.0.0.1:{port}")),
            format!("{port}\n")
        );
        copy.stop();
    }
    assert_eq!(wait_for_name("127.0.0.1:8080"), "original\n");
    // A port that is taken is told before the guest runs.
    host.run(&["restore", "s9", "--detach", "-p", "127.0.0.1:8080:80"])
        .refused(4, "8080");
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn connections_of_a_guest_that_goes_back_end_and_do_not_hang() {
    give_the_host_a_network();
    let host = Host::new(512);
    let options = [
        "--net",
        "-p",
        "127.0.0.1:8090:80",
        "-p",
        "127.0.0.1:8091:81",
    ];
    let vm = boot_with_options(&host, 128, 1, &options);
    go_online(&host, &vm, "original");
    vm.snapshot("before");
    // One connection into the guest and one out of it, opened after the snapshot.
    let server = TcpListener::bind((SERVER, 9002)).unwrap();
    output(&host, &vm, "mkfifo /tmp/open");
    output(
        &host,
        &vm,
        "(nc -l -p 81 >/srv/in; echo ended >/srv/in-ended) >/dev/null 2>&1 &",
    );
    output(
        &host,
        &vm,
        &format!(
            "(sleep 1000 >/tmp/open &
              nc {SERVER} 9002 </tmp/open; echo ended >/srv/out-ended) >/dev/null 2>&1 &"
        ),
    );
    let (mut outgoing, _) = server.accept().unwrap();
    let mut incoming = connect("127.0.0.1:8091".parse().unwrap()).unwrap();
    incoming.write_all(b"hello\n").unwrap();
    let until = Instant::now() + PATIENCE;
    while output(&host, &vm, "cat /srv/in") != "hello\n" {
        assert!(Instant::now() < until);
    }
    vm.snapshot("open");
    host.run(&["rewind", &vm.name, "--to", "open"]).ok();
    // The guest's programs are told.
    let until = Instant::now() + PATIENCE;
    while sh(
        &host,
        &vm,
        "test -e /srv/in-ended && test -e /srv/out-ended",
    )
    .code
        != 0
    {
        assert!(
            Instant::now() < until,
            "{}",
            output(&host, &vm, "netstat -tn; ls /srv")
        );
        thread::sleep(Duration::from_millis(200));
    }
    // So are the peers: at the latest when they send.
    for stream in [&mut incoming, &mut outgoing] {
        stream
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            let sent = stream.write_all(b"still there?\n");
            match (sent, stream.read(&mut [0; 64])) {
                (Err(_), _) | (_, Ok(0)) => break,
                (_, Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                _ => assert!(Instant::now() < until, "the peer waits for ever"),
            }
        }
    }
    // New connections work.
    assert_eq!(wait_for_name("127.0.0.1:8090"), "original\n");
    vm.stop();
    host.assert_pool_clean();
}

/// Waits until the VM says that connections stay.
fn wait_until_kept(vm: &Vm<'_>) {
    let until = Instant::now() + PATIENCE;
    while vm.status()["restore"]["connections"] != "kept" {
        assert!(Instant::now() < until, "{}", vm.status());
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn connections_stay_where_that_is_asked_for() {
    give_the_host_a_network();
    let host = Host::new(512);
    let options = ["--net", "-p", "127.0.0.1:8095:81"];
    let vm = boot_with_options(&host, 128, 1, &options);
    go_online(&host, &vm, "original");
    output(
        &host,
        &vm,
        // Its input stays open: a connection that the guest has closed is another matter.
        "mkfifo /tmp/open
         (sleep 10000 >/tmp/open &
          nc -l -p 81 </tmp/open >/srv/in; echo ended >/srv/in-ended) >/dev/null 2>&1 &",
    );
    wait_for(&host, &vm, "netstat -tln | grep -q ':81 '");
    let mut peer = connect("127.0.0.1:8095".parse().unwrap()).unwrap();
    let wait_for_bytes = |expected: &str| {
        let until = Instant::now() + PATIENCE;
        while output(&host, &vm, "cat /srv/in") != expected {
            assert!(Instant::now() < until, "{expected:?} never came");
        }
    };
    peer.write_all(b"before\n").unwrap();
    wait_for_bytes("before\n");
    vm.snapshot("open");
    // Nothing was sent since: both ends agree after the rewind, too.
    let back = ["rewind", &vm.name, "--to", "open", "--keep-connections"];
    host.run(&back).ok();
    wait_until_kept(&vm);
    peer.write_all(b"after\n").unwrap();
    wait_for_bytes("before\nafter\n");
    assert_ne!(sh(&host, &vm, "test -e /srv/in-ended").code, 0);
    // A copy has the connection, although nobody is at its other end; unless it is to end.
    let open = "netstat -tn | grep -c ':81 .*ESTABLISHED'";
    let copy = host.restore("open", &["--keep-connections"]);
    wait_until_kept(&copy);
    assert_eq!(output(&host, &copy, open), "1\n");
    copy.stop();
    let copy = host.restore("open", &[]);
    wait_for(&host, &copy, "test -e /srv/in-ended");
    assert_eq!(sh(&host, &copy, open).stdout, "0\n");
    copy.stop();
    vm.stop();
    host.assert_pool_clean();
}

/// Address that guests in namespaces have inside.
const INSIDE: &str = "172.31.255.2";

#[test]
fn copies_in_namespaces_have_one_address_inside_and_serve_at_their_ports() {
    give_the_host_a_network();
    let host = Host::new(1024);
    let names = ["one", "two", "three", "four"];
    for (name, port) in names.iter().zip(8200..) {
        netns(&["add", name, "--publish", &format!("{port}:80")]);
    }
    let vm = boot_with_options(&host, 128, 1, &["--net", "netns=one,tap=tap0"]);
    let script = format!(
        "ip addr add {INSIDE}/24 dev eth0 && ip link set eth0 up &&
         ip route add default via 172.31.255.1 && mkdir -p /srv && echo original >/srv/name &&
         cat /bin/busybox >/srv/large && httpd -p 80 -h /srv"
    );
    output(&host, &vm, &script);
    assert_eq!(wait_for_name("10.9.9.2:8200"), "original\n");
    let large = std::fs::read("/bin/busybox").unwrap();
    assert!(get("10.9.9.2:8200", "/large").unwrap() == large);
    vm.snapshot("s");
    let copies: Vec<_> = names[1..]
        .iter()
        .zip(8201..)
        .map(|(name, port)| {
            let net = format!("netns={name},tap=tap0");
            (host.restore("s", &["--net", &net]), port)
        })
        .collect();
    for (copy, port) in &copies {
        wait_for_name(&format!("10.9.9.2:{port}"));
        output(&host, copy, &format!("echo {port} >/srv/name"));
    }
    for (copy, port) in copies {
        let address = format!("10.9.9.2:{port}");
        assert_eq!(wait_for_name(&address), format!("{port}\n"));
        assert!(get(&address, "/large").unwrap() == large);
        copy.stop();
    }
    assert_eq!(wait_for_name("10.9.9.2:8200"), "original\n");
    // A snapshot at a TAP device does not go on at passt.
    vm.stop();
    names.iter().for_each(|name| netns(&["rm", name]));
    host.run(&["restore", "s", "--detach"])
        .refused(3, "namespace 'one'");
    host.assert_pool_clean();
}

/// Runs `ip` on the host.
fn ip(command: &str) {
    let done = Command::new("ip").args(command.split(' ')).output();
    let done = done.expect("ip runs");
    assert!(done.status.success(), "ip {command}: {done:?}");
}

#[test]
fn two_vms_talk_through_a_bridge_by_several_queues() {
    let host = Host::new(1024);
    ip("link add bridge0 type bridge");
    ip("link set bridge0 up");
    let vms: Vec<_> = (1..=2)
        .map(|number| {
            ip(&format!(
                "tuntap add tap{number} mode tap vnet_hdr multi_queue"
            ));
            ip(&format!("link set tap{number} master bridge0 up"));
            let net = format!("tap=tap{number},queues=2");
            let vm = boot_with_options(&host, 96, 2, &["--net", &net]);
            let script = format!(
                "ip addr add 10.7.7.{number}/24 dev eth0 && ip link set eth0 up &&
                 ls -d /sys/class/net/eth0/queues/tx-*"
            );
            let queues = output(&host, &vm, &script);
            assert_eq!(queues.lines().count(), 2, "{queues}");
            vm
        })
        .collect();
    // Several streams at once, each way, with what it takes to see a byte that is wrong.
    let [one, two] = &vms[..] else {
        unreachable!("two were started");
    };
    let sum = output(&host, one, "md5sum </bin/busybox");
    for vm in &vms {
        output(&host, vm, "httpd -p 80 -h /bin");
    }
    let fetch = |from: u32| {
        format!(
            "for n in 1 2 3; do
                 wget -q -O /tmp/in$n http://10.7.7.{from}/busybox &
             done; wait; for n in 1 2 3; do md5sum </tmp/in$n; rm /tmp/in$n; done"
        )
    };
    for (vm, from) in [(one, 2), (two, 1)] {
        assert_eq!(output(&host, vm, &fetch(from)), sum.repeat(3));
    }
    // Both ways at once.
    let (left, right) = thread::scope(|scope| {
        let left = scope.spawn(|| output(&host, one, &fetch(2)));
        (output(&host, two, &fetch(1)), left.join().unwrap())
    });
    assert_eq!((left, right), (sum.repeat(3), sum.repeat(3)));
    for vm in vms {
        vm.stop();
    }
    host.assert_pool_clean();
}
