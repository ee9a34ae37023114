//! libFuzzer's entry to [`weir_fuzz::sync`]; holds nothing of its own.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz::sync::check(data));
