#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    parsers::target("chat_template").run(bytes);
});
