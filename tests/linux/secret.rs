//! A program of a guest that is captured and restarted, and checks at its end that its memory is
//! complete.

use nvvmm_tests::agent::{output, wait_for};
use nvvmm_tests::{Host, Vm};

/// Keeps a secret of 2 MiB in its memory, in which no two pages are alike. At its end it checks
/// that the secret is still there.
const SUBJECT: &str = r#"
    function secret(  i, x) {
        for (i = 0; i < 1111; i++) x = x i " "
        for (i = 0; i < 9; i++) x = x x
        return x
    }
    BEGIN {
        x = secret()
        print pid >"/tmp/ready"
        close("/tmp/ready")
        while ((getline line <"/tmp/go") < 0) close("/tmp/go")
        if (length(x) > 2000000 && x == secret()) print "all is there" >"/tmp/verdict"
    }"#;

/// Installs the program as a file of the guest. The program has this file open, so each VM in which
/// it is restarted must have it.
pub fn install(host: &Host, vm: &Vm<'_>) {
    output(
        host,
        vm,
        &format!("cat >/tmp/subject <<'END'\n{SUBJECT}\nEND"),
    );
}

/// Starts the program in its own session, with a process ID that no other process of the VMs has.
/// Returns the process ID.
pub fn start(host: &Host, vm: &Vm<'_>) -> String {
    output(
        host,
        vm,
        "cd /tmp; echo 20000 >/proc/sys/kernel/ns_last_pid
         setsid sh -c 'exec awk -v pid=$$ -f subject' <subject >/dev/null 2>&1 &",
    );
    wait_for(host, vm, "grep . /tmp/ready").trim().to_owned()
}

/// Lets the program check its secret and end. Fails the test unless all of the secret is there.
pub fn assert_whole(host: &Host, vm: &Vm<'_>) {
    output(host, vm, ": >/tmp/go");
    assert_eq!(wait_for(host, vm, "grep . /tmp/verdict"), "all is there\n");
    output(host, vm, "rm /tmp/go /tmp/verdict");
}
