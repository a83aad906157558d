//! Programs of the tests' own, compiled here.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Compiles `NAME.bpf.c` of this folder.
pub fn compile(name: &str) -> Vec<u8> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let object = std::env::temp_dir().join(format!("{name}-{}.bpf.o", std::process::id()));
    let compiler = std::env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&compiler)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-c", "-o"])
        .arg(&object)
        .arg("-I")
        .arg(here.join("vmlinux"))
        .arg(here.join(format!("tests/common/{name}.bpf.c")))
        .status()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(status.success(), "{compiler} could not compile {name}.bpf.c");
    let bytes = fs::read(&object).expect("read what was compiled");
    fs::remove_file(object).expect("remove its file");
    bytes
}
