//! What is in registers only.

use std::arch::asm;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::{Check, Scene};

pub fn scenario(name: &str, _: &Scene) -> Option<Check> {
    Some(match name {
        "vector-registers" => vector_registers(),
        "rseq" => rseq(),
        _ => return None,
    })
}

/// A thread that runs with patterns in all AVX and the general registers until it is told to look.
fn vector_registers() -> Check {
    assert!(is_x86_feature_detected!("avx"), "needs a processor with AVX");
    let flag = Arc::new([const { AtomicU32::new(0) }; 2]);
    let spinner = {
        let flag = flag.clone();
        // SAFETY: AVX is there.
        thread::spawn(move || unsafe { spin(&flag[0], &flag[1]) })
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

type Vectors = [[u64; 4]; 8];

/// # Safety
/// The processor must have AVX.
#[target_feature(enable = "avx")]
unsafe fn spin(stop: &AtomicU32, runs: &AtomicU32) -> (Vectors, Vectors, [u64; 2]) {
    let before: Vectors = std::array::from_fn(|register| {
        std::array::from_fn(|word| 0x0101_0101_0101_0101 * (register * 4 + word + 1) as u64)
    });
    let mut after = Vectors::default();
    let mut general = [0u64; 2];
    // SAFETY: reads before, writes after, general and runs, all of which live through it; the registers are named.
    unsafe {
        asm!(
            "vmovdqu ymm8, [{from}]",
            "vmovdqu ymm9, [{from} + 32]",
            "vmovdqu ymm10, [{from} + 64]",
            "vmovdqu ymm11, [{from} + 96]",
            "vmovdqu ymm12, [{from} + 128]",
            "vmovdqu ymm13, [{from} + 160]",
            "vmovdqu ymm14, [{from} + 192]",
            "vmovdqu ymm15, [{from} + 224]",
            "mov r12, 0x1111222233334444",
            "mov r13, 0x5555666677778888",
            "mov dword ptr [{runs}], 1",
            "2:",
            "pause",
            "cmp dword ptr [{stop}], 0",
            "je 2b",
            "vmovdqu [{to}], ymm8",
            "vmovdqu [{to} + 32], ymm9",
            "vmovdqu [{to} + 64], ymm10",
            "vmovdqu [{to} + 96], ymm11",
            "vmovdqu [{to} + 128], ymm12",
            "vmovdqu [{to} + 160], ymm13",
            "vmovdqu [{to} + 192], ymm14",
            "vmovdqu [{to} + 224], ymm15",
            "mov [{general}], r12",
            "mov [{general} + 8], r13",
            from = in(reg) before.as_ptr(),
            to = in(reg) after.as_mut_ptr(),
            general = in(reg) general.as_mut_ptr(),
            stop = in(reg) stop.as_ptr(),
            runs = in(reg) runs.as_ptr(),
            out("r12") _, out("r13") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
        );
    }
    (before, after, general)
}

/// `struct rseq` of the calling thread, which glibc (2.35) registers.
fn rseq_area() -> *mut u8 {
    // SAFETY: symbols of glibc; both are numbers. The area is that far from the thread pointer, which fs:0 holds.
    unsafe {
        let symbol = |name: &std::ffi::CStr| libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        let (offset, size) = (
            symbol(c"__rseq_offset").cast::<isize>(),
            symbol(c"__rseq_size").cast::<u32>(),
        );
        assert!(!offset.is_null() && *size > 0, "glibc has not registered rseq");
        let thread: *mut u8;
        asm!("mov {}, fs:0", out(reg) thread);
        thread.offset(*offset)
    }
}

/// A thread that spins in a critical section, which only an abort ends, and the kernel goes on telling each thread its CPU.
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
        // SAFETY: the area is this thread's own; cpu_id is at its fifth byte. The set lives through the call.
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
    // SAFETY: the descriptor lies in its own section; the abort handler stands behind the signature that glibc registers, and nothing but
    // the named registers changes.
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
