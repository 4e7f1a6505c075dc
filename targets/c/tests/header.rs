//! `flashflood.h` is what cbindgen makes of the declarations. `FLASHFLOOD_HEADER=write cargo test -p flashflood-c` writes
//! it anew.

use std::path::Path;

const BEGIN: &str = "/* flashflood as a C library. Made by cbindgen of targets/c/src: do not edit. What misuse does stands there too. */";

#[test]
fn the_header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        header: Some(BEGIN.to_owned()),
        include_guard: Some("FLASHFLOOD_H".to_owned()),
        cpp_compat: true,
        style: cbindgen::Style::Type,
        documentation_style: cbindgen::DocumentationStyle::C99,
        usize_is_size_t: true,
        no_includes: true,
        line_length: 110,
        after_includes: None,
        ..cbindgen::Config::default()
    };
    let sources = ["src/lib.rs", "src/engine.rs", "src/session.rs"];
    let builder = sources.iter().fold(cbindgen::Builder::new(), |builder, file| builder.with_src(folder.join(file)));
    let mut made = Vec::new();
    builder.with_config(config).generate().expect("the declarations can be read").write(&mut made);
    let made = String::from_utf8(made).expect("a header is text");
    let path = folder.join("flashflood.h");
    if std::env::var("FLASHFLOOD_HEADER").is_ok_and(|value| value == "write") {
        std::fs::write(&path, &made).expect("the header can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, made, "flashflood.h is old: FLASHFLOOD_HEADER=write cargo test -p flashflood-c");
}
