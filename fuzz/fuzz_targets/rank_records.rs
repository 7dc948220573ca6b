#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    parsers::target("rank_records").run(bytes);
});
