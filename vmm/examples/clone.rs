//! Snapshots a guest and clones it, in one process: `cargo run --example clone -- KERNEL POOL`
//!
//! KERNEL is nvvmm's bare-metal guest (scripts/build-guests.sh), POOL a new file on tmpfs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::{env, error::Error, path::Path};

use nvvmm::{CreateOptions, Pool, Vm, VmOptions, VmSpec};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    run(Path::new(&arguments[1]), Path::new(&arguments[2]))
}

/// Boots a guest, clones it twice, and takes it back in time.
pub fn run(kernel: &Path, pool: &Path) -> Result<(), Box<dyn Error>> {
    let (size_bytes, overcommit) = (256 << 20, false);
    let pool = Pool::create(
        pool,
        &CreateOptions {
            size_bytes,
            overcommit,
        },
    )?;
    let spec = VmSpec::builder(kernel)
        .vcpus(2)
        .memory_bytes(64 << 20)
        .build();

    let (options, mut console) = VmOptions::named("original").with_console()?;
    let original = Vm::boot(&pool, spec, options)?;
    println!("original: {}", ask(&mut console, "fill 32 7")?);
    let report = original.snapshot("filled")?;
    println!(
        "snapshot: the guest was paused for {:.0} us",
        report.pause_us
    );

    for name in ["clone-1", "clone-2"] {
        let (options, mut console) = VmOptions::named(name).with_console()?;
        let _clone = Vm::restore(&pool, "filled", options)?;
        println!("{name}: {}", ask(&mut console, "check")?);
        println!("{name}: {}", ask(&mut console, "write 0 100")?);
    }

    println!("original: {}", ask(&mut console, "write 0 500")?);
    original.rewind("filled")?;
    println!("original: {}", ask(&mut console, "check")?);
    original.stop();
    println!("original: {:?}", original.wait()?);
    Ok(())
}

/// Sends a command to the guest and waits for its answer, a line that begins with `@`.
fn ask(console: &mut UnixStream, command: &str) -> Result<String, Box<dyn Error>> {
    writeln!(console, "{command}")?;
    let word = format!("@ {} ", command.split(' ').next().unwrap_or_default());
    let lines = BufReader::new(console).lines();
    let mut answers = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with(&word));
    answers
        .next()
        .ok_or_else(|| "the guest has no answer".into())
}
