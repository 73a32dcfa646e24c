#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| nvvmm_fuzz::remote::run(input));
