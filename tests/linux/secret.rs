//! A program of a guest that is captured and restarted, and knows in the end whether its memory is
//! whole.

use nvvmm_tests::agent::{output, wait_for};
use nvvmm_tests::{Host, Vm};

/// Has a secret of 2 MiB in its memory, no two pages of it alike, and says at the end whether it is
/// still there.
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

/// What it has open is a file of the guest, which every VM must have where it is to go on.
pub fn install(host: &Host, vm: &Vm<'_>) {
    output(
        host,
        vm,
        &format!("cat >/tmp/subject <<'END'\n{SUBJECT}\nEND"),
    );
}

/// Starts the subject in a session of its own, with a number that no other VM has used; that
/// number.
pub fn start(host: &Host, vm: &Vm<'_>) -> String {
    output(
        host,
        vm,
        "cd /tmp; echo 20000 >/proc/sys/kernel/ns_last_pid
         setsid sh -c 'exec awk -v pid=$$ -f subject' <subject >/dev/null 2>&1 &",
    );
    wait_for(host, vm, "grep . /tmp/ready").trim().to_owned()
}

/// Lets it look, and end; all must be there.
pub fn assert_whole(host: &Host, vm: &Vm<'_>) {
    output(host, vm, ": >/tmp/go");
    assert_eq!(wait_for(host, vm, "grep . /tmp/verdict"), "all is there\n");
    output(host, vm, "rm /tmp/go /tmp/verdict");
}
