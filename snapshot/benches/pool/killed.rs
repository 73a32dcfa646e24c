//! A process that uses a pool and is killed: this program again.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nvvmm_snapshot::{BLOCK_SIZE_BYTES, Pool};

const POOL: &str = "NVVMM_BENCH_KILLED_IN";
const VMS: u32 = 4;
/// Memory that each of them has of its own: 64 MiB.
const CHUNKS: u32 = 32;

pub fn is_this_process() -> bool {
    std::env::var_os(POOL).is_some()
}

/// VMs that were restored from the newest snapshot, and have written.
pub fn run() -> ! {
    let pool = Pool::open(Path::new(&std::env::var_os(POOL).unwrap())).unwrap();
    let newest = pool.entries().unwrap().pop().unwrap().name;
    let _vms: Vec<_> = (0..VMS)
        .map(|number| {
            let vm = pool.hold(&format!("vm-{number}")).unwrap();
            vm.pin(&newest).unwrap();
            for _ in 0..CHUNKS {
                for block in vm.alloc_chunk().unwrap().blocks() {
                    vm.write_block(block, &[0xdd; BLOCK_SIZE_BYTES as usize])
                        .unwrap();
                }
            }
            vm
        })
        .collect();
    kill(Pid::this(), Signal::SIGKILL).unwrap();
    unreachable!("killed");
}

/// Has VMs of another process die in a pool.
pub fn die_in(pool: &Path) {
    let status = Command::new(std::env::current_exe().unwrap())
        .env(POOL, pool)
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
}
