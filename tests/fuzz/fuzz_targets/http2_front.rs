//! libFuzzer's entry to [`weir_fuzz::http2_front`]; holds nothing of its own.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir_fuzz::http2_front::check(data));
