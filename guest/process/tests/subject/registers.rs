//! Scenarios whose state is in registers only.

use std::arch::asm;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::{Check, Fixture};

pub fn scenario(name: &str, _: &Fixture) -> Option<Check> {
    Some(match name {
        "vector-registers" => vector_registers(),
        "rseq" => rseq(),
        _ => return None,
    })
}

/// A thread that runs with patterns in vector and general registers until it is told to look.
fn vector_registers() -> Check {
    let spin = if is_x86_feature_detected!("avx") {
        spin_avx
    } else {
        eprintln!("this processor has no AVX: these are SSE registers");
        spin_sse
    };
    let flag = Arc::new([const { AtomicU32::new(0) }; 2]);
    let spinner = {
        let flag = flag.clone();
        thread::spawn(move || {
            let before: Vectors = std::array::from_fn(|register| {
                std::array::from_fn(|word| 0x0101_0101_0101_0101 * (register * 4 + word + 1) as u64)
            });
            // What a register holds is wrong here until it is stored; what it does not have is
            // right.
            let mut after = before;
            after.iter_mut().for_each(|words| words[0] = 0);
            let mut general = [0u64; 2];
            // SAFETY: the processor has the registers.
            unsafe { spin(&flag, &before, &mut after, &mut general) };
            (before, after, general)
        })
    };
    while flag[1].load(Ordering::SeqCst) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    Box::new(move || {
        flag[0].store(1, Ordering::SeqCst);
        let (before, after, general) = spinner.join().expect("the spinner");
        assert_eq!(before, after, "vector registers");
        assert_eq!(
            general,
            [0x1111_2222_3333_4444, 0x5555_6666_7777_8888],
            "general registers"
        );
    })
}

/// Content of eight registers, 32 bytes each; a shorter register has the first bytes.
type Vectors = [[u64; 4]; 8];

macro_rules! spin {
    ($name:ident, $feature:literal, $move:literal, $kind:literal, $($register:tt)*) => {
        /// Loads registers, tells so by the second flag, waits for the first, and stores them.
        ///
        /// # Safety
        /// The processor must have the feature.
        #[target_feature(enable = $feature)]
        unsafe fn $name(
            flags: &[AtomicU32; 2],
            before: &Vectors,
            after: &mut Vectors,
            general: &mut [u64; 2],
        ) {
            // SAFETY: reads before, writes after, general and the flags, all of which live through
            // it; the registers are named.
            unsafe {
                asm!(
                    concat!($move, " ", $kind, "8, [{from}]"),
                    concat!($move, " ", $kind, "9, [{from} + 32]"),
                    concat!($move, " ", $kind, "10, [{from} + 64]"),
                    concat!($move, " ", $kind, "11, [{from} + 96]"),
                    concat!($move, " ", $kind, "12, [{from} + 128]"),
                    concat!($move, " ", $kind, "13, [{from} + 160]"),
                    concat!($move, " ", $kind, "14, [{from} + 192]"),
                    concat!($move, " ", $kind, "15, [{from} + 224]"),
                    "mov r12, 0x1111222233334444",
                    "mov r13, 0x5555666677778888",
                    "mov dword ptr [{flags} + 4], 1",
                    "2:",
                    "pause",
                    "cmp dword ptr [{flags}], 0",
                    "je 2b",
                    concat!($move, " [{to}], ", $kind, "8"),
                    concat!($move, " [{to} + 32], ", $kind, "9"),
                    concat!($move, " [{to} + 64], ", $kind, "10"),
                    concat!($move, " [{to} + 96], ", $kind, "11"),
                    concat!($move, " [{to} + 128], ", $kind, "12"),
                    concat!($move, " [{to} + 160], ", $kind, "13"),
                    concat!($move, " [{to} + 192], ", $kind, "14"),
                    concat!($move, " [{to} + 224], ", $kind, "15"),
                    "mov [{general}], r12",
                    "mov [{general} + 8], r13",
                    from = in(reg) before.as_ptr(),
                    to = in(reg) after.as_mut_ptr(),
                    general = in(reg) general.as_mut_ptr(),
                    flags = in(reg) flags.as_ptr(),
                    out("r12") _, out("r13") _,
                    $(out($register) _,)*
                );
            }
        }
    };
}

spin!(spin_avx, "avx", "vmovdqu", "ymm",
    "ymm8" "ymm9" "ymm10" "ymm11" "ymm12" "ymm13" "ymm14" "ymm15");
spin!(spin_sse, "sse2", "movdqu", "xmm",
    "xmm8" "xmm9" "xmm10" "xmm11" "xmm12" "xmm13" "xmm14" "xmm15");

/// `struct rseq` of the calling thread, which glibc (2.35) registers.
fn rseq_area() -> *mut u8 {
    unsafe extern "C" {
        static __rseq_offset: isize;
        static __rseq_size: u32;
    }
    // SAFETY: glibc sets both before main. The area is that far from the thread pointer, which fs:0
    // holds.
    unsafe {
        assert!(__rseq_size > 0, "glibc has not registered rseq");
        let thread: *mut u8;
        asm!("mov {}, fs:0", out(reg) thread);
        thread.offset(__rseq_offset)
    }
}

/// A thread that spins in a critical section, which only an abort ends, and the kernel goes on
/// telling each thread its CPU.
fn rseq() -> Check {
    let aborts = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicU32::new(0));
    let spinner = {
        let (aborts, stop) = (aborts.clone(), stop.clone());
        thread::spawn(move || {
            let area = rseq_area();
            while stop.load(Ordering::SeqCst) == 0 {
                // SAFETY: the area is this thread's own.
                unsafe { critical_section(area) };
                aborts.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    thread::sleep(Duration::from_millis(20));
    Box::new(move || {
        stop.store(1, Ordering::SeqCst);
        spinner.join().expect("the spinner");
        assert!(aborts.load(Ordering::SeqCst) > 0);
        let area = rseq_area();
        // SAFETY: the area is this thread's own; cpu_id is at its fifth byte. The set lives through
        // the call.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &mut set), 0);
            for cpu in (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)) {
                let mut one: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(cpu, &mut one);
                assert_eq!(libc::sched_setaffinity(0, size_of_val(&one), &one), 0);
                assert_eq!(
                    area.add(4).cast::<u32>().read_volatile() as usize,
                    cpu,
                    "the kernel has forgotten the area"
                );
            }
        }
    })
}

/// Spins until the kernel aborts it.
///
/// # Safety
/// The area must be the calling thread's registered one.
unsafe fn critical_section(area: *mut u8) {
    // SAFETY: the descriptor lies in its own section; the abort handler stands behind the signature
    // that glibc registers, and nothing but the named registers changes.
    unsafe {
        asm!(
            ".pushsection .data.rel.nvvmm_rseq, \"aw\"",
            ".balign 32",
            "77:",
            ".long 0, 0",
            ".quad 78f, 79f - 78f, 80f",
            ".popsection",
            "lea {scratch}, [rip + 77b]",
            "mov [{area} + 8], {scratch}",
            "78:",
            "pause",
            "jmp 78b",
            "79:",
            ".byte 0x0f, 0xb9, 0x3d",
            ".long 0x53053053",
            "80:",
            "mov qword ptr [{area} + 8], 0",
            area = in(reg) area,
            scratch = out(reg) _,
        );
    }
}
