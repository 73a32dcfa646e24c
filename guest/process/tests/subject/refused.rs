//! What cannot be held.

use std::fs::File;
use std::io::pipe;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::{mem, ptr};

use crate::memory::{PAGE, Region};
use crate::{Check, Scene};

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Sets one thing up, and keeps it.
pub fn scenario(name: &str, scene: &Scene) -> Option<Check> {
    Some(match name {
        "plain" => Box::new(|| {}),
        "connected-socket" => keep(UnixStream::pair().expect("sockets")),
        "io-uring" => keep(io_uring()),
        "epoll" => {
            // SAFETY: the call takes numbers only.
            assert!(unsafe { libc::epoll_create1(0) } >= 0);
            keep(())
        }
        "memfd" => {
            // SAFETY: the name lives through the call.
            assert!(unsafe { libc::memfd_create(c"test".as_ptr(), 0) } >= 0);
            keep(())
        }
        "device-mapping" => {
            let device = File::options()
                .read(true)
                .write(true)
                .open("/dev/zero")
                .expect("a device");
            keep(Region::map(4, READ_WRITE, libc::MAP_PRIVATE, Some(&device)))
        }
        "shared-anonymous" => keep(Region::map(4, READ_WRITE, libc::MAP_SHARED, None)),
        "deleted-file" => {
            let file = File::create(scene.path("deleted")).expect("a file");
            std::fs::remove_file(scene.path("deleted")).expect("the file");
            keep(file)
        }
        "deleted-mapping" => {
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(scene.path("mapped"))
                .expect("a file");
            file.set_len(PAGE as u64).expect("room");
            std::fs::remove_file(scene.path("mapped")).expect("the file");
            keep(Region::map(1, READ_WRITE, libc::MAP_SHARED, Some(&file)))
        }
        "mapped-file" => {
            std::fs::write(scene.path("mapped"), vec![1; PAGE]).expect("a file");
            let file = File::open(scene.path("mapped")).expect("the file");
            keep(Region::map(1, libc::PROT_READ, libc::MAP_PRIVATE, Some(&file)))
        }
        "file-lock" => {
            let file = File::create(scene.path("locked")).expect("a file");
            // SAFETY: the call takes numbers only.
            assert_eq!(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }, 0);
            keep(file)
        }
        "foreign-namespace" => {
            // SAFETY: the call takes numbers only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWUTS) }, 0);
            keep(())
        }
        "posix-timer" => {
            // SAFETY: the timer's number has a place to go.
            unsafe {
                let mut timer = mem::zeroed();
                assert_eq!(
                    libc::timer_create(libc::CLOCK_MONOTONIC, ptr::null_mut(), &mut timer),
                    0
                );
            }
            keep(())
        }
        "outside-pipe" => {
            let (reader, writer) = pipe().expect("a pipe");
            // cat has the other end.
            let child = Command::new("setsid")
                .args(["--fork", "cat"])
                .stdin(reader)
                .stdout(Stdio::null())
                .status();
            assert!(child.expect("a child").success());
            keep(writer)
        }
        "child" => keep(
            Command::new("sleep")
                .arg("60")
                .stdin(Stdio::null())
                .spawn()
                .expect("a child"),
        ),
        "system-v-memory" => {
            // SAFETY: a segment of its own, which goes away with this process.
            unsafe {
                let segment = libc::shmget(libc::IPC_PRIVATE, PAGE, 0o600);
                assert_ne!(libc::shmat(segment, ptr::null(), 0) as isize, -1);
                assert_eq!(libc::shmctl(segment, libc::IPC_RMID, ptr::null_mut()), 0);
            }
            keep(())
        }
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
    assert!(fd >= 0, "io_uring_setup: {}", std::io::Error::last_os_error());
    fd as i32
}
