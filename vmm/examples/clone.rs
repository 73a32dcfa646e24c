//! Snapshots a guest and clones it: `cargo run --example clone -- KERNEL POOL`, where KERNEL is
//! nvvmm's bare-metal guest (scripts/build-guests.sh) and POOL a new file on tmpfs.
use std::io::{BufRead, BufReader, Write};
use std::{env, error::Error, os::unix::net::UnixStream, path::Path};

use nvvmm::{CreateOptions, Pool, Vm, VmOptions, VmSpec};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    run(Path::new(&arguments[1]), Path::new(&arguments[2]))
}

/// Boots a guest, clones it, and takes it back in time.
pub fn run(kernel: &Path, pool: &Path) -> Result<(), Box<dyn Error>> {
    let pool = Pool::create(pool, &CreateOptions::of_size(256 << 20))?;
    let spec = VmSpec::builder(kernel).memory_bytes(64 << 20).build();
    let (options, mut console) = VmOptions::named("original").with_console()?;
    let original = Vm::boot(&pool, spec, options)?;
    println!("original: {}", ask(&mut console, "fill 32 7")?);
    let report = original.snapshot("filled")?;
    println!("snapshot: a pause of {:.0} us", report.pause_us);

    let (options, mut other_console) = VmOptions::named("clone").with_console()?;
    let _clone = Vm::restore(&pool, "filled", options)?;
    println!("clone: {}", ask(&mut other_console, "check")?);

    println!("original: {}", ask(&mut console, "write 0 500")?);
    original.rewind("filled")?;
    println!("original: {}", ask(&mut console, "check")?);
    Ok(())
}

/// Sends a command to the guest. Returns its answer, a line that begins with `@`.
fn ask(console: &mut UnixStream, command: &str) -> Result<String, Box<dyn Error>> {
    writeln!(console, "{command}")?;
    let word = format!("@ {} ", command.split(' ').next().unwrap_or_default());
    let mut lines = BufReader::new(console).lines().map_while(Result::ok);
    Ok((lines.find(|line| line.starts_with(&word))).ok_or("the guest has no answer")?)
}
