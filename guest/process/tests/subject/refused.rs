//! Scenarios that cannot be captured.

use std::fs::{File, Permissions};
use std::io::{Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::ptr;

use crate::listeners::packet_socket;
use crate::memory::{PAGE, Region};
use crate::processes::{fork, wait};
use crate::{Check, Fixture};

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Sets one thing up, and keeps it.
pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    descriptor(name, fixture)
        .or_else(|| socket(name, fixture))
        .or_else(|| confined(name))
        .or_else(|| mapping(name, fixture))
        .or_else(|| whole_process(name, fixture))
}

/// Things that have a file descriptor.
fn descriptor(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "io-uring" => keep(io_uring()),
        "shared-memfd" => {
            // SAFETY: the name lives through the call.
            assert!(unsafe { libc::memfd_create(c"test".as_ptr(), 0) } >= 0);
            outsider(fixture);
            keep(())
        }
        "huge-memfd" => {
            // SAFETY: the name lives through the call.
            assert!(unsafe { libc::memfd_create(c"huge".as_ptr(), libc::MFD_HUGETLB) } >= 0);
            keep(())
        }
        "linked-file" => {
            let file = File::create(fixture.path("file")).expect("a file");
            std::fs::hard_link(fixture.path("file"), fixture.path("other")).expect("a name");
            std::fs::remove_file(fixture.path("file")).expect("the file");
            keep(file)
        }
        "deleted-directory" => {
            std::fs::create_dir(fixture.path("directory")).expect("a directory");
            let directory = File::open(fixture.path("directory")).expect("the directory");
            std::fs::remove_dir(fixture.path("directory")).expect("the directory");
            keep(directory)
        }
        "lease" => {
            let file = File::create(fixture.path("leased")).expect("a file");
            // SAFETY: the call takes numbers only.
            let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) };
            assert_eq!(set, 0);
            keep(file)
        }
        "unread-events" => {
            let path =
                std::ffi::CString::new(fixture.path("").into_os_string().into_encoded_bytes());
            let path = path.expect("a path");
            // SAFETY: the path lives through the call.
            unsafe {
                let watches = libc::inotify_init1(libc::IN_CLOEXEC);
                assert!(libc::inotify_add_watch(watches, path.as_ptr(), libc::IN_CREATE) > 0);
            }
            std::fs::write(fixture.path("file"), "").expect("a file");
            keep(())
        }
        "shared-counter" => {
            // SAFETY: the call takes numbers only.
            assert!(unsafe { libc::eventfd(0, 0) } >= 0);
            outsider(fixture);
            keep(())
        }
        "outside-pipe" => {
            let (mut reader, writer) = pipe().expect("a pipe");
            orphan(|| {
                // SAFETY: nothing of this process uses its copy of the other end.
                unsafe { libc::close(writer.as_raw_fd()) };
                let _ = reader.read(&mut [0]);
            });
            keep(writer)
        }
        _ => return None,
    })
}

/// Sockets.
fn socket(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "packet-socket" => keep(packet_socket()),
        "outside-socket" => {
            let listener = UnixListener::bind(fixture.path("socket")).expect("a socket");
            outsider(fixture);
            keep(listener)
        }
        "waiting-connection" => {
            let listener = UnixListener::bind(fixture.path("socket")).expect("a socket");
            let client = UnixStream::connect(fixture.path("socket")).expect("a socket");
            keep((listener, client))
        }
        "outside-connection" => {
            let listener = UnixListener::bind(fixture.path("socket")).expect("a socket");
            let client = UnixStream::connect(fixture.path("socket")).expect("a socket");
            orphan(|| {
                // SAFETY: nothing of this process uses its copy of the other end.
                unsafe { libc::close(client.as_raw_fd()) };
                let _accepted = listener.accept().expect("a connection");
                while fixture.directory.exists() && !fixture.path("passed").exists() {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
            });
            drop(listener);
            keep(client)
        }
        _ => return None,
    })
}

/// Confinement and keys, which nobody but the process itself, or a tracer, can tell.
fn confined(name: &str) -> Option<Check> {
    Some(match name {
        "landlock-files" => landlock([1 << 2, 0, 0]),
        "landlock-network" => landlock([0, 1, 0]),
        "keys" => keys(),
        "dispatched-calls" => {
            const SET_DISPATCH: i32 = 59;
            // The selector lets all calls pass.
            let selector: &'static mut u8 = Box::leak(Box::new(0));
            // SAFETY: the selector lives as long as this process.
            let set = unsafe {
                libc::prctl(
                    SET_DISPATCH,
                    1usize,
                    0usize,
                    0usize,
                    ptr::from_mut(selector),
                )
            };
            assert_eq!(set, 0);
            keep(())
        }
        _ => return None,
    })
}

/// Confines this process: what is given is forbidden to it of files, networks and others.
fn landlock(forbidden: [u64; 3]) -> Check {
    // SAFETY: the rules live through the call; the others take numbers only.
    unsafe {
        let size = if forbidden[1] == 0 { 8 } else { 16 };
        let create = libc::SYS_landlock_create_ruleset;
        let rules = libc::syscall(create, forbidden.as_ptr(), size, 0);
        assert!(rules >= 0, "landlock: {}", std::io::Error::last_os_error());
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::syscall(libc::SYS_landlock_restrict_self, rules, 0), 0);
        libc::close(rules as i32);
    }
    keep(())
}

/// A session keyring with a key in it.
fn keys() -> Check {
    const JOIN_SESSION: i32 = 1;
    const SESSION: i32 = -3;
    // SAFETY: the texts live through the calls.
    unsafe {
        let joined = libc::syscall(libc::SYS_keyctl, JOIN_SESSION, ptr::null::<u8>());
        assert!(joined > 0, "keyctl: {}", std::io::Error::last_os_error());
        let (kind, name) = (c"user".as_ptr(), c"nvvmm-test".as_ptr());
        let added = libc::syscall(libc::SYS_add_key, kind, name, name, 4usize, SESSION);
        assert!(added > 0, "add_key: {}", std::io::Error::last_os_error());
    }
    keep(())
}

/// Makes a process outside that has what this one has, and ends with it.
pub fn outsider(fixture: &Fixture) {
    orphan(|| {
        // SAFETY: the call takes numbers only.
        unsafe { libc::alarm(60) };
        while fixture.directory.exists() && !fixture.path("passed").exists() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });
}

/// Kinds of memory.
fn mapping(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "device-mapping" => {
            let device = File::options()
                .read(true)
                .write(true)
                .open("/dev/zero")
                .expect("a device");
            keep(Region::map(4, READ_WRITE, libc::MAP_PRIVATE, Some(&device)))
        }
        "outside-memory" => {
            let region = Region::map(4, READ_WRITE, libc::MAP_SHARED, None);
            outsider(fixture);
            keep(region)
        }
        "mapped-file" => {
            std::fs::write(fixture.path("mapped"), vec![1; PAGE]).expect("a file");
            let file = File::open(fixture.path("mapped")).expect("the file");
            keep(Region::map(
                1,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                Some(&file),
            ))
        }
        "part-of-segment" => {
            // SAFETY: a segment of its own, which goes away with this process.
            unsafe {
                let segment = libc::shmget(libc::IPC_PRIVATE, 2 * PAGE, 0o600);
                let at = libc::shmat(segment, ptr::null(), 0);
                assert_ne!(at as isize, -1);
                assert_eq!(libc::munmap(at, PAGE), 0);
                assert_eq!(libc::shmctl(segment, libc::IPC_RMID, ptr::null_mut()), 0);
            }
            keep(())
        }
        _ => return None,
    })
}

/// Properties of the process.
fn whole_process(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "plain" => Box::new(|| {}),
        "foreign-namespace" => {
            // SAFETY: the call takes numbers only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWUTS) }, 0);
            keep(())
        }
        "child" => keep(
            Command::new("sleep")
                .arg("60")
                .stdin(Stdio::null())
                .spawn()
                .expect("a child"),
        ),
        "shared-memory" => shared(libc::CLONE_VM),
        "shared-descriptors" => shared(libc::CLONE_FILES),
        "shared-directory" => shared(libc::CLONE_FS),
        "traced" => {
            traced();
            keep(())
        }
        "32-bit" => become_32_bit(fixture),
        _ => return None,
    })
}

fn keep<T: 'static>(kept: T) -> Check {
    Box::new(move || drop(kept))
}

/// A ring's descriptor, for good.
fn io_uring() -> i32 {
    let mut parameters = [0u8; 120];
    // SAFETY: the parameters have the size of struct io_uring_params.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, parameters.as_mut_ptr()) };
    assert!(
        fd >= 0,
        "io_uring_setup: {}",
        std::io::Error::last_os_error()
    );
    fd as i32
}

/// Runs in a process that is not this one's child.
fn orphan(body: impl FnOnce()) {
    let between = fork(|| {
        fork(|| {
            body();
            0
        });
        0
    });
    assert_eq!(wait(between), 0);
}

/// A child that has something in common with this process. It ends with it.
fn shared(what: libc::c_int) -> Check {
    extern "C" fn wait_for_ever(_: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the calls take numbers only, and touch no memory that is shared.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
    }
    let stack = vec![0u8; 64 << 10].leak();
    // SAFETY: the stack is the child's alone and lives as long as this process; the function
    // returns never.
    let child = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast();
        libc::clone(wait_for_ever, top, what | libc::SIGCHLD, ptr::null_mut())
    };
    assert!(child > 0, "clone: {}", std::io::Error::last_os_error());
    keep(())
}

/// Makes another process trace this one until it ends.
fn traced() {
    let (mut told, mut teller) = pipe().expect("a pipe");
    // SAFETY: the call takes nothing.
    let own = unsafe { libc::getpid() };
    orphan(|| {
        // SAFETY: the calls take numbers, and a place for the status.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, own, 0usize, 0usize), 0);
            teller.write_all(b"x").expect("room");
            let mut status = 0;
            while libc::waitpid(own, &mut status, 0) == own && libc::WIFSTOPPED(status) {
                libc::ptrace(libc::PTRACE_CONT, own, 0usize, 0usize);
            }
        }
    });
    told.read_exact(&mut [0]).expect("its word");
}

/// Becomes a program of 32 bits, which does what this one does around a scenario.
fn become_32_bit(fixture: &Fixture) -> ! {
    unsafe extern "C" {
        static nvvmm_program32: u8;
        static nvvmm_program32_end: u8;
    }
    // SAFETY: both symbols are of the section below, which is never written.
    let program = unsafe {
        let (start, end) = (&raw const nvvmm_program32, &raw const nvvmm_program32_end);
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    };
    let path = fixture.path("program");
    std::fs::write(&path, program).expect("a file");
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("its mode");
    let error = Command::new(&path).current_dir(&fixture.directory).exec();
    panic!("this kernel runs no programs of 32 bits: {error}");
}

// An ELF file: its header, that of its one segment, and the program: creat, then access and
// nanosleep in turn, creat, exit.
std::arch::global_asm!(
    ".pushsection .rodata.nvvmm_program32, \"a\"",
    ".globl nvvmm_program32, nvvmm_program32_end",
    "nvvmm_program32:",
    ".byte 0x7f, 'E', 'L', 'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0",
    ".short 2, 3",
    ".long 1, 0x8048000 + .Lcode32 - nvvmm_program32, 52, 0, 0",
    ".short 52, 32, 1, 40, 0, 0",
    ".long 1, 0, 0x8048000, 0x8048000",
    ".long nvvmm_program32_end - nvvmm_program32, nvvmm_program32_end - nvvmm_program32",
    ".long 5, 4096",
    ".code32",
    ".Lcode32:",
    "movl $8, %eax",
    "movl $0x8048000 + .Lready32 - nvvmm_program32, %ebx",
    "movl $0644, %ecx",
    "int $0x80",
    ".Lagain32:",
    "movl $33, %eax",
    "movl $0x8048000 + .Lgo32 - nvvmm_program32, %ebx",
    "xorl %ecx, %ecx",
    "int $0x80",
    "testl %eax, %eax",
    "jz .Lfound32",
    "movl $162, %eax",
    "movl $0x8048000 + .Lmoment32 - nvvmm_program32, %ebx",
    "xorl %ecx, %ecx",
    "int $0x80",
    "jmp .Lagain32",
    ".Lfound32:",
    "movl $8, %eax",
    "movl $0x8048000 + .Lpassed32 - nvvmm_program32, %ebx",
    "movl $0644, %ecx",
    "int $0x80",
    "movl $1, %eax",
    "xorl %ebx, %ebx",
    "int $0x80",
    ".Lmoment32: .long 0, 2000000",
    ".Lready32: .asciz \"ready\"",
    ".Lgo32: .asciz \"go\"",
    ".Lpassed32: .asciz \"passed\"",
    "nvvmm_program32_end:",
    ".code64",
    ".popsection",
    options(att_syntax)
);
