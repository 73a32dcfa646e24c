//! Checks of what the kernel has for the confinement of VM processes and commands.

use super::host::Host;
use super::{Finding, State};

pub(super) fn all(host: &Host) -> Vec<Finding> {
    vec![seccomp(host), landlock(host), user_namespaces(host)]
}

fn seccomp(host: &Host) -> Finding {
    let actions = host
        .read("/proc/sys/kernel/seccomp/actions_avail")
        .unwrap_or_default();
    match actions.split(' ').any(|action| action == "kill_process") {
        true => Finding::ok("seccomp", "filters can kill a process"),
        false => Finding::bad(
            "seccomp",
            State::Warn,
            "this kernel has no seccomp filters: commands that parse what others wrote refuse",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn landlock(host: &Host) -> Finding {
    match host.tried.landlock {
        0 => Finding::bad(
            "Landlock",
            State::Warn,
            "this kernel has no Landlock: confined processes can still open files",
            "boot with lsm=landlock,... and a kernel with CONFIG_SECURITY_LANDLOCK",
        ),
        abi => Finding::ok("Landlock", format!("ABI {abi}")),
    }
}

fn user_namespaces(host: &Host) -> Finding {
    let check = "user namespaces";
    let closed = [
        (
            "user.max_user_namespaces",
            "/proc/sys/user/max_user_namespaces",
            0,
            "10000",
        ),
        (
            "kernel.unprivileged_userns_clone",
            "/proc/sys/kernel/unprivileged_userns_clone",
            0,
            "1",
        ),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            1,
            "0",
        ),
    ];
    if !host.exists("/proc/self/ns/user") {
        return Finding::bad(
            check,
            State::Warn,
            "this kernel has none: VM processes keep the namespaces of the host",
            "use a kernel with CONFIG_USER_NS",
        );
    }
    for (name, file, value, open) in closed {
        if !host.tried.is_root && host.number(file) == Some(value) {
            return Finding::bad(
                check,
                State::Warn,
                format!("{name} is {value}: VM processes keep the namespaces of the host"),
                format!("sudo sysctl {name}={open}"),
            );
        }
    }
    Finding::ok(check, "this user can have them")
}
