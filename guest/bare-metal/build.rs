//! Links the guest program at its fixed address, without start files and without any library.
use std::path::Path;

fn main() {
    let manifest_dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = Path::new(&manifest_dir).join("guest.ld");
    println!("cargo::rerun-if-changed=guest.ld");
    for arg in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
    for arg in [
        "--build-id=none",
        "-z,max-page-size=4096",
        "-z,norelro",
        "--gc-sections",
    ] {
        println!("cargo::rustc-link-arg-bins=-Wl,{arg}");
    }
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
}
