//! A copy speaks TLS with a server whose certificate is younger than the snapshot.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nvvmm_tests::Host;
use nvvmm_tests::agent::{sh, wait_for};
use nvvmm_tests::host_clock::HostClock;
use nvvmm_tests::witness::boot_with_programs;

use crate::network::{SERVER, give_the_host_a_network, take_an_address};

const CLIENT: &str = "
import socket, ssl
context = ssl.create_default_context(cafile='/tmp/cert')
with socket.create_connection(('10.9.8.1', 8443), 60) as plain:
    with context.wrap_socket(plain, server_hostname='10.9.8.1') as stream:
        print(stream.version())
";

fn openssl(arguments: &str) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).stdin(Stdio::null());
    command
}

/// Makes a certificate of this moment for the server's address.
fn make_certificate(place: &Path) {
    let done = openssl(&format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 \
         -subj /CN=nvvmm-test -addext subjectAltName=IP:{SERVER} \
         -keyout {0}/key -out {0}/cert",
        place.display()
    ))
    .output()
    .expect("openssl is installed");
    assert!(done.status.success(), "{done:?}");
}

/// A server that ends with this.
struct Server(Child);

impl Server {
    fn start(place: &Path) -> Self {
        let arguments = format!(
            "s_server -accept {SERVER}:8443 -cert {0}/cert -key {0}/key -quiet -www",
            place.display()
        );
        let child = openssl(&arguments).stdout(Stdio::null()).spawn();
        Self(child.expect("openssl runs"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_copy_takes_a_certificate_that_is_younger_than_its_snapshot() {
    let Some(clock) = HostClock::of_emulated_host() else {
        println!("the host's clock is not this test's: nothing is tested");
        return;
    };
    give_the_host_a_network();
    let host = Host::new(1024);
    let vm = boot_with_programs(&host, 256, "", &["--net"]);
    take_an_address(&host, &vm);
    vm.snapshot("base");
    vm.stop();

    let files = tempfile::tempdir().unwrap();
    clock.put_off_by(3600);
    make_certificate(files.path());
    let _server = Server::start(files.path());
    // The guest of this copy still has the time of the snapshot.
    for (options, is_right) in [
        (&["--clock", "step"][..], true),
        (&["--clock", "keep"], false),
    ] {
        let copy = host.restore("base", options);
        let (from, to) = (
            files.path().join("cert"),
            format!("{}:/tmp/cert", copy.name),
        );
        host.run(&["cp", from.to_str().unwrap(), &to]).ok();
        let client = format!("python3 -c \"{CLIENT}\"");
        if is_right {
            assert_eq!(wait_for(&host, &copy, &client), "TLSv1.3\n");
        } else {
            std::thread::sleep(Duration::from_secs(2));
            sh(&host, &copy, &client).refused(1, "not yet valid");
        }
        copy.stop();
    }
    host.assert_pool_clean();
}
