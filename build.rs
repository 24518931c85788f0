//! Gives the allocator its options: a symbol that jemalloc looks for when it starts.
//!
//! Safe Rust cannot export one, so it is a line of C, linked into every program of the package.

use std::path::PathBuf;

/// Freed pages go back after a quarter of a second instead of ten, in the background, and from few
/// arenas: a batch's buffers come and go many times a second and must not pile up.
const OPTIONS: &str = "background_thread:true,dirty_decay_ms:250,muzzy_decay_ms:0,narenas:2";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let source = out.join("malloc_conf.c");
    let text = format!("const char *malloc_conf = \"{OPTIONS}\";\n");
    std::fs::write(&source, text).expect("cargo made the folder");
    for object in cc::Build::new().file(&source).compile_intermediates() {
        println!("cargo::rustc-link-arg={}", object.display());
    }
}
