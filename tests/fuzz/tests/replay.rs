//! Replays the seeds and regressions of every fuzz target, without a fuzzer.
//!
//! `scripts/fuzz.sh` makes new inputs from them, under sanitizers: that is for the nightly run.

use std::{fs, path::Path};

use nvvmm_fuzz::{boot, control, devices, image, pool, protocol, remote, state, stream};

/// Runs a target with each file of its folders, and fails where there is none.
fn replay(target: &str, run: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut replayed = 0;
    for kind in ["seeds", "regressions"] {
        let Ok(inputs) = fs::read_dir(root.join(kind).join(target)) else {
            continue;
        };
        for input in inputs {
            let path = input.expect("the folder can be read").path();
            // Named if the target panics: the test's output is shown then.
            println!("{}", path.display());
            run(&fs::read(&path).expect("the input can be read"));
            replayed += 1;
        }
    }
    assert!(replayed > 0, "{target} has no inputs");
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name), $name::run);
            }
        )*

        /// The targets that are replayed are those that are fuzzed.
        #[test]
        fn every_target_is_replayed() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets/fuzz_targets");
            let mut fuzzed: Vec<String> = fs::read_dir(folder)
                .expect("the targets are there")
                .map(|entry| entry.expect("the folder can be read").path())
                .map(|path| path.file_stem().expect("a file").display().to_string())
                .collect();
            fuzzed.sort();
            let mut replayed = vec![$(stringify!($name)),*];
            replayed.sort_unstable();
            assert_eq!(fuzzed, replayed);
        }
    };
}

targets!(
    boot, control, devices, image, pool, protocol, remote, state, stream
);
