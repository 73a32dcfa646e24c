//! A changed pool: opening, checking, listing and using it.
//!
//! The first byte chooses the image, and whether checksums are made right after the changes. Then
//! come the changes (see [`image::Image::change`]) and the steps of the pool's users (see
//! [`user::User::step`]).
//!
//! A pool that a check calls clean must be usable: every list, map and state can be read. A clean
//! pool stays clean after any use.

pub(crate) mod image;
mod user;

use nvvmm_snapshot::Pool;

use crate::script::Script;

const CHANGES_MAX: u8 = 16;
const STEPS_MAX: usize = 24;

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let choice = script.u8();
    let mut image = match choice & 4 {
        0 => image::Image::example(choice & 1 != 0),
        _ => image::Image::example_with_disks(choice & 1 != 0),
    };
    for _ in 0..script.u8() % CHANGES_MAX {
        image.change(&mut script);
    }
    if choice & 2 == 0 {
        image.mend();
    }
    let (_file, path) = image.file();
    let pool = match Pool::open(&path) {
        Ok(pool) => pool,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let clean = pool.check().is_ok_and(|report| report.is_clean());
    if clean {
        user::read_all(&pool, clean).expect("a clean pool can be read");
    }
    let mut user = user::User::new(pool, clean);
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        user.step(&mut script);
    }
    let report = user.pool().check();
    if clean {
        let findings = report.expect("a clean pool can be checked").findings;
        assert!(
            findings.is_empty(),
            "a clean pool was damaged by its use: {findings:?}"
        );
    }
}
