//! A program of a guest that is captured and restarted, and knows in the end whether its memory is whole.

use nvvmm_tests::agent::{output, wait_for};
use nvvmm_tests::{Host, Vm};

/// Has a secret in its memory, and says at the end whether it is still there.
const SUBJECT: &str = "cd /tmp; x=$(seq 200000); sum=$(echo \"$x\" | md5sum); echo $$ >ready
    while [ ! -e go ]; do :; done
    [ \"$sum\" = \"$(echo \"$x\" | md5sum)\" ] && [ \"$x\" = \"$(seq 200000)\" ] && echo all is there >verdict";

/// What it reads is a file of the guest, which every VM must have where it is to go on.
pub fn install(host: &Host, vm: &Vm<'_>) {
    output(host, vm, &format!("cat >/tmp/subject <<'END'\n{SUBJECT}\nEND"));
}

/// Starts the subject in a session of its own, with a number that no other VM has used; that number.
pub fn start(host: &Host, vm: &Vm<'_>) -> String {
    output(
        host,
        vm,
        "echo 20000 >/proc/sys/kernel/ns_last_pid; setsid sh /tmp/subject </dev/null >/dev/null 2>&1 &",
    );
    wait_for(host, vm, "grep . /tmp/ready").trim().to_owned()
}

/// Lets it look, and end; all must be there.
pub fn assert_whole(host: &Host, vm: &Vm<'_>) {
    output(host, vm, ": >/tmp/go");
    assert_eq!(wait_for(host, vm, "grep . /tmp/verdict"), "all is there\n");
    output(host, vm, "rm /tmp/go /tmp/verdict");
}
