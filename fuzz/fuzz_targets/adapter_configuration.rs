#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    parsers::target("adapter_configuration").run(bytes);
});
