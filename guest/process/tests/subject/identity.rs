//! Identity and surroundings of a process. The harness compares much of it by /proc.

use std::os::unix::fs::MetadataExt;

use crate::{Check, Fixture};

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "surroundings" => surroundings(fixture),
        "credentials" => credentials(fixture),
        "session" => session(),
        _ => return None,
    })
}

fn limit(resource: libc::__rlimit_resource_t) -> (u64, u64) {
    let mut found = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: found has room for the answer.
    assert_eq!(unsafe { libc::getrlimit(resource, &mut found) }, 0);
    (found.rlim_cur, found.rlim_max)
}

fn surroundings(fixture: &Fixture) -> Check {
    let inner = fixture.path("inner");
    std::fs::create_dir_all(&inner).expect("a directory");
    std::env::set_current_dir(&inner).expect("a directory");
    let small = libc::rlimit {
        rlim_cur: 123,
        rlim_max: 456,
    };
    // SAFETY: calls with numbers, or with a structure that lives through them.
    unsafe {
        libc::umask(0o137);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &small), 0);
        assert_eq!(
            libc::setrlimit(
                libc::RLIMIT_CORE,
                &libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 4096
                }
            ),
            0
        );
        assert_eq!(libc::setpriority(libc::PRIO_PROCESS, 0, 5), 0);
        assert_eq!(libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1), 0);
        assert_eq!(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGWINCH), 0);
        assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 0), 0);
    }
    std::fs::write("/proc/self/oom_score_adj", "300").expect("a score");
    Box::new(move || {
        assert_eq!(
            std::env::current_dir().expect("a directory"),
            inner.canonicalize().expect("a path")
        );
        let _ = std::fs::remove_file("made");
        std::fs::write("made", "").expect("a file");
        assert_eq!(
            std::fs::metadata(inner.join("made"))
                .expect("the file")
                .mode()
                & 0o777,
            0o640 & 0o666
        );
        assert_eq!(limit(libc::RLIMIT_NOFILE), (123, 456));
        assert_eq!(limit(libc::RLIMIT_CORE), (0, 4096));
        // SAFETY: calls with numbers, or with places for the answer.
        unsafe {
            let (mut subreaper, mut signal) = (0i32, 0i32);
            assert_eq!(libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &mut subreaper), 0);
            assert_eq!(libc::prctl(libc::PR_GET_PDEATHSIG, &mut signal), 0);
            assert_eq!(
                (subreaper, signal, libc::prctl(libc::PR_GET_DUMPABLE)),
                (1, libc::SIGWINCH, 0)
            );
        }
    })
}

/// A user with a few capabilities left, some of them ambient.
fn credentials(fixture: &Fixture) -> Check {
    const CAP_KILL: u64 = 5;
    const CAP_NET_RAW: u64 = 13;
    const CAP_SYS_TIME: u64 = 25;
    use std::os::unix::fs::PermissionsExt;
    let open_to_all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&fixture.directory, open_to_all).expect("its mode");
    // SAFETY: calls with numbers, or with structures that live through them. There is one thread.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_TIME), 0);
        assert_eq!(libc::prctl(libc::PR_SET_KEEPCAPS, 1), 0);
        assert_eq!(libc::setgroups(3, [5000, 6000, 70000].as_ptr()), 0);
        assert_eq!(libc::setresgid(1001, 1002, 1003), 0);
        assert_eq!(libc::setresuid(2001, 2002, 2003), 0);
        let set = (1u32 << CAP_KILL) | (1 << CAP_NET_RAW);
        let header = [0x2008_0522u32, 0];
        let sets = [set, set, 1 << CAP_KILL, 0, 0, 0];
        assert_eq!(
            libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()),
            0
        );
        assert_eq!(
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                CAP_KILL,
                0,
                0
            ),
            0
        );
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    }
    Box::new(|| {
        let (mut users, mut groups) = ([0; 3], [0; 3]);
        // SAFETY: places for the answers.
        unsafe {
            let [real, effective, saved] = &mut users;
            libc::getresuid(real, effective, saved);
            let [real, effective, saved] = &mut groups;
            libc::getresgid(real, effective, saved);
        }
        assert_eq!((users, groups), ([2001, 2002, 2003], [1001, 1002, 1003]));
        assert!(
            std::fs::read("/etc/shadow").is_err(),
            "it has root's rights"
        );
    })
}

/// The leader of a session and of a process group.
fn session() -> Check {
    // SAFETY: calls with numbers. The harness does not make it a group's leader.
    let own = unsafe {
        assert!(libc::setsid() > 0);
        libc::getpid()
    };
    Box::new(move || {
        // SAFETY: calls with numbers.
        let now = unsafe { [libc::getpid(), libc::getsid(0), libc::getpgid(0)] };
        assert_eq!(now, [own; 3]);
    })
}
