//! Compresses the line tables that stay in the program itself, those of the standard library and of
//! file names. The standard library reads both forms when it prints a backtrace.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib");
    }
}
