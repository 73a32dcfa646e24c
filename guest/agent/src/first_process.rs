//! The agent as the first process of a small guest: mounts file systems, loads drivers, and reaps
//! orphans.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;

use crate::sys;

/// The drivers of a small guest: names of files in the same directory, in the order in which they
/// are loaded.
const MODULES: &str = "/modules/list";

/// Search path of programs; the kernel gives its first process no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Prepares the guest, has another agent serve the host, and switches the machine off when that
/// ends.
///
/// # Errors
/// The other process cannot be started.
pub fn run() -> io::Result<()> {
    for (kind, place) in [
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
        (c"devtmpfs", c"/dev"),
        (c"devpts", c"/dev/pts"),
        (c"tmpfs", c"/run"),
        (c"tmpfs", c"/tmp"),
    ] {
        if let Err(error) = fs::create_dir_all(place.to_string_lossy().as_ref())
            .and_then(|()| sys::mount(kind, place))
        {
            eprintln!(
                "nvvmm-agent: cannot mount {}: {error}",
                place.to_string_lossy()
            );
        }
    }
    load_modules();
    // A process of its own: one that reaps all children would take the programs' status from
    // those who wait for it.
    let agent = Command::new("/proc/self/exe")
        .env("PATH", PATH)
        .spawn()?
        .id();
    while sys::reap_any()? != agent {}
    sys::power_off()
}

fn load_modules() {
    let Ok(list) = fs::read_to_string(MODULES) else {
        return;
    };
    let directory = Path::new(MODULES).with_file_name("");
    for name in list.lines() {
        let loaded = File::open(directory.join(name)).and_then(|file| sys::load_module(&file));
        if let Err(error) = loaded {
            eprintln!("nvvmm-agent: cannot load {name}: {error}");
        }
    }
}
