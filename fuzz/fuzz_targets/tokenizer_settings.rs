#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    parsers::target("tokenizer_settings").run(bytes);
});
