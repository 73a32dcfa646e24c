//! The log of a VM in the background has the level of the command that started it.

use nvvmm_tests::{Host, Vm, required};

#[test]
fn the_level_that_was_given_reaches_the_log_of_the_vm() {
    let host = Host::new(64);
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let guest = guest.to_str().unwrap();
    for (name, verbose) in [("quiet", None), ("told", Some("-v"))] {
        let mut arguments = vec![
            "run", "--name", name, "--kernel", guest, "--memory", "16M", "--detach",
        ];
        arguments.extend(verbose);
        let started = host.run(&arguments).ok();
        let steps = ["started the VM process", "reported after", "done after"];
        for step in steps {
            assert_eq!(
                started.stderr.contains(step),
                verbose.is_some(),
                "{started:?}"
            );
        }
        let vm = Vm::attach(&host, name.to_owned());
        host.run(&["pause", name]).ok();
        vm.resume();
        let log = std::fs::read_to_string(host.runtime().join(format!("{name}.log"))).unwrap();
        let requests = [
            "was asked for a pause: done after",
            "was asked for a resume: done",
        ];
        for request in requests {
            assert_eq!(log.contains(request), verbose.is_some(), "{name}: {log}");
        }
        vm.stop();
    }
}
