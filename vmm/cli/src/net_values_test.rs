use super::*;

fn refused(text: &str) -> String {
    network(text).unwrap_err()
}

#[test]
fn a_network_is_a_place_and_options() {
    let passt = || NetSource::Passt {
        published: Vec::new(),
    };
    assert_eq!(network("passt").unwrap(), NetChoice::of(passt()));
    assert_eq!(network("none").unwrap(), NetChoice::of(NetSource::None));
    let tap = network("tap=tap0,mac=02:00:00:00:00:01,mtu=9000,queues=4,netns=blue").unwrap();
    assert_eq!(
        tap,
        NetChoice {
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: Some(9000),
            queues: Some(4),
            netns: Some("blue".to_owned()),
            ..NetChoice::of(NetSource::Tap {
                name: "tap0".to_owned()
            })
        }
    );
    assert_eq!(network("fd=7").unwrap().source, NetSource::Fd { fd: 7 });
    let limited = network("netns=blue,rate=10M,pps=1000,deny=10.0.0.0/8,deny=::/0,allow=10.1.2.3");
    let limited = limited.unwrap();
    assert_eq!(limited.source, passt());
    assert_eq!(limited.rate.bytes_per_s, NonZeroU64::new(10 << 20));
    assert_eq!(limited.rate.frames_per_s, NonZeroU64::new(1000));
    assert_eq!(limited.policy.deny.len(), 2);
    assert_eq!(limited.policy.allow[0].to_string(), "10.1.2.3/32");
}

#[test]
fn a_network_that_is_none_is_refused_with_what_there_is() {
    for (text, part) in [
        ("base", "use passt, tap=NAME"),
        ("", "use passt, tap=NAME"),
        ("passt,tap=a", "second network"),
        ("tap=", "no name of an interface"),
        ("tap=a/b", "no name of an interface"),
        ("tap=sixteen-bytes-lo", "no name of an interface"),
        ("fd=1", "too small"),
        ("mac=01:00:00:00:00:00", "the first one even"),
        ("mac=02:00", "no address of a card"),
        ("mtu=67", "too small"),
        ("mtu=70000", "too large"),
        ("queues=2", "needs 'tap=NAME'"),
        ("tap=a,queues=17", "too large"),
        ("netns=../x", "no name of a network namespace"),
        ("rate=1K", "smallest rate is 8K"),
        ("deny=10.0.0.0/33", "this is no network"),
        ("rate=1M,rate=2M", "given twice"),
        ("none,rate=1M", "'none' has no options"),
        ("speed=1", "'speed' is no option"),
    ] {
        let refusal = refused(text);
        assert!(refusal.contains(part), "{text}: {refusal}");
    }
}

#[test]
fn ports_are_published_as_with_docker() {
    let http = published("8080:80").unwrap();
    assert_eq!((http.host_port, http.guest_port, http.count), (8080, 80, 1));
    assert_eq!((http.protocol, http.address), (Protocol::Tcp, None));
    let dns = published("127.0.0.1:5353:53/udp").unwrap();
    assert_eq!(dns.protocol, Protocol::Udp);
    assert_eq!(dns.address.unwrap().to_string(), "127.0.0.1");
    let range = published("[::1]:8000-8010:9000-9010/tcp").unwrap();
    assert_eq!(range.address.unwrap().to_string(), "::1");
    assert_eq!(
        (range.host_port, range.guest_port, range.count),
        (8000, 9000, 11)
    );
    for (text, part) in [
        ("80", "no pair of ports"),
        ("a:b:80", "no pair of ports"),
        ("0:80", "too small"),
        ("80:65536", "too large"),
        ("80-81:80", "one length"),
        ("81-80:80", "ends before it begins"),
        ("1-2000:1-2000", "more than 1000 ports"),
        ("80:80/sctp", "no protocol"),
    ] {
        let refusal = published(text).unwrap_err();
        assert!(refusal.contains(part), "{text}: {refusal}");
    }
}

#[test]
fn to_publish_a_port_is_to_want_passt_and_no_other_network() {
    let arguments = |net: Option<&str>| NetArguments {
        net: net.map(|text| network(text).unwrap()),
        publish: vec![published("8080:80").unwrap()],
    };
    for net in [None, Some("passt"), Some("netns=blue")] {
        let card = new_card(arguments(net)).unwrap().unwrap();
        assert!(matches!(card.source, NetSource::Passt { published } if published.len() == 1));
        assert_eq!((card.mac.0[0] & 3, card.mtu), (2, 65520));
    }
    for net in ["tap=tap0", "fd=5", "none"] {
        let error = new_card(arguments(Some(net))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
    }
    let none = NetArguments {
        net: None,
        publish: Vec::new(),
    };
    assert_eq!(new_card(none).unwrap(), None);
}
