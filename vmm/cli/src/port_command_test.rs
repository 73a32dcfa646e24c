use nvvmm::spec::Protocol;

use super::*;

#[test]
fn the_table_has_a_line_for_each_published_range() {
    let ports = [
        Published {
            protocol: Protocol::Tcp,
            address: None,
            host_port: 8080,
            guest_port: 80,
            count: 1,
        },
        Published {
            protocol: Protocol::Udp,
            address: Some([127, 0, 0, 1].into()),
            host_port: 5000,
            guest_port: 6000,
            count: 3,
        },
    ];
    let lines = ports.map(|published| row("web", &published).join(" "));
    assert_eq!(
        lines,
        ["web 8080 80 tcp", "web 127.0.0.1:5000-5002 6000-6002 udp"]
    );
}
