//! libFuzzer's entry to [`weir_fuzz::vrrp`]; holds nothing of its own.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz::vrrp::check(data));
