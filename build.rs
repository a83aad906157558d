//! Compiles src/bpf/cilmark.bpf.c into a skeleton in OUT_DIR. `CLANG` names the compiler.

use std::env;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut builder = SkeletonBuilder::new();
    builder.source("src/bpf/cilmark.bpf.c").clang_args([
        "-Isrc/bpf",
        "-Ivmlinux",
        "-mcpu=v3",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]);
    if let Some(clang) = env::var_os("CLANG") {
        builder.clang(clang);
    }
    if let Err(error) = builder.build_and_generate(out.join("cilmark.skel.rs")) {
        panic!(
            "compile src/bpf/cilmark.bpf.c (needs clang 14 or newer; CLANG= names it): {error:#}"
        );
    }
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-changed=vmlinux");
    println!("cargo:rerun-if-env-changed=CLANG");
}
