use super::*;

fn policy(deny: &[&str], allow: &[&str]) -> NetPolicy {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    NetPolicy {
        deny: nets(deny),
        allow: nets(allow),
    }
}

fn allows(policy: &NetPolicy, address: &str) -> bool {
    policy.allows(address.parse().unwrap())
}

/// A frame with an IP packet to `address` behind `tags` VLAN tags.
fn frame_to(address: &str, tags: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for _ in 0..tags {
        frame.extend([0x81, 0, 0, 5]);
    }
    match address.parse().unwrap() {
        IpAddr::V4(address) => {
            frame.extend([8, 0, 0x45]);
            frame.extend([0; 15]);
            frame.extend(address.octets());
        }
        IpAddr::V6(address) => {
            frame.extend([0x86, 0xdd, 0x60]);
            frame.extend([0; 5]);
            frame.extend([17]);
            frame.extend([0; 17]);
            frame.extend(address.octets());
        }
    }
    frame
}

#[test]
fn the_metadata_address_and_the_hosts_loopback_are_denied_unless_allowed() {
    let none = NetPolicy::default();
    for address in [
        "169.254.169.254",
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "fd00:ec2::254",
        "::1",
        "::",
        "::ffff:127.0.0.1",
    ] {
        assert!(!allows(&none, address), "{address}");
    }
    for address in [
        "169.254.169.253",
        "10.0.0.1",
        "1.1.1.1",
        "2001:db8::1",
        "ff02::1",
    ] {
        assert!(allows(&none, address), "{address}");
    }
    let metadata = policy(&[], &["169.254.169.254/32"]);
    assert!(allows(&metadata, "169.254.169.254"));
    assert!(!allows(&metadata, "127.0.0.1"));
}

#[test]
fn the_longest_prefix_decides_and_of_equal_ones_the_allowed() {
    let only = policy(&["0.0.0.0/0", "::/0"], &["10.0.0.0/8"]);
    assert!(allows(&only, "10.1.2.3"));
    assert!(!allows(&only, "11.1.2.3"));
    assert!(!allows(&only, "2001:db8::1"));
    assert!(allows(&only, "255.255.255.255"), "DHCP");
    let both = policy(
        &["10.0.0.0/8", "192.168.0.0/16"],
        &["10.0.0.0/8", "192.0.0.0/8"],
    );
    assert!(allows(&both, "10.0.0.1"));
    assert!(!allows(&both, "192.168.0.1"));
}

#[test]
fn frames_are_looked_at_behind_tags_and_options() {
    let policy = policy(&["10.0.0.0/8", "2001:db8::/32"], &[]);
    for tags in 0..=2 {
        for address in ["10.1.1.1", "2001:db8::5"] {
            let frame = frame_to(address, tags);
            assert_eq!(
                policy.check(&frame),
                Err(Refused::Denied),
                "{address} {tags}"
            );
        }
        for address in ["11.1.1.1", "2001:db9::5"] {
            assert_eq!(policy.check(&frame_to(address, tags)), Ok(()));
        }
    }
    assert_eq!(
        policy.check(&frame_to("11.1.1.1", 3)),
        Err(Refused::Malformed)
    );
    // A fragment that is not the first.
    let mut fragment = frame_to("10.1.1.1", 0);
    fragment[20..22].copy_from_slice(&[0, 7]);
    assert_eq!(policy.check(&fragment), Err(Refused::Denied));
    // A source route.
    let mut routed = frame_to("11.1.1.1", 0);
    routed[14] = 0x47;
    routed.extend([1, 131, 7, 4, 10, 1, 1, 1]);
    assert_eq!(policy.check(&routed), Err(Refused::Denied));
    // A routing header behind hop-by-hop options.
    let mut routed = frame_to("2001:db9::5", 0);
    routed[20] = HOP_BY_HOP;
    routed.extend([ROUTING, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(policy.check(&routed), Err(Refused::Denied));
}

#[test]
fn arp_passes_and_headers_that_are_cut_off_do_not() {
    let policy = NetPolicy::default();
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(policy.check(&arp), Ok(()));
    for whole in [frame_to("11.1.1.1", 1), frame_to("2001:db9::5", 1)] {
        for length in 0..whole.len() {
            assert_eq!(
                policy.check(&whole[..length]),
                Err(Refused::Malformed),
                "{length}"
            );
        }
    }
}
