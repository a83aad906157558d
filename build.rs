//! Compiles src/bpf/cilmark.bpf.c into a skeleton in OUT_DIR, and lists there which functions its
//! programs call. `CLANG` names the compiler.

use std::path::{Path, PathBuf};
use std::{env, fs};

use libbpf_cargo::SkeletonBuilder;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SymbolKind};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = out.join("cilmark.bpf.o");
    let mut builder = SkeletonBuilder::new();
    builder.source("src/bpf/cilmark.bpf.c").obj(&object).clang_args([
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
    fs::write(out.join("calls.rs"), calls(&object)).expect("write the list of calls to OUT_DIR");
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-changed=vmlinux");
    println!("cargo:rerun-if-env-changed=CLANG");
}

/// An expression: program, function, and which of the program's instructions is the call.
fn calls(object: &Path) -> String {
    const INSTRUCTION: u64 = 8;
    let bytes = fs::read(object).expect("read the object");
    let object = object::File::parse(&*bytes).expect("an ELF file");
    let section = object.section_by_name("tc").expect("the section of the programs");
    let functions = object.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let programs = functions.filter(|symbol| symbol.section_index() == Some(section.index()));
    let programs: Vec<_> = programs.collect();
    let mut list = Vec::new();
    for (offset, relocation) in section.relocations() {
        let RelocationTarget::Symbol(called) = relocation.target() else { continue };
        let called = object.symbol_by_index(called).expect("the symbol of a relocation");
        if called.kind() != SymbolKind::Text {
            continue;
        }
        let holds = |symbol: &object::Symbol<'_, '_>| {
            (symbol.address()..symbol.address() + symbol.size()).contains(&offset)
        };
        let program = programs.iter().find(|symbol| holds(symbol)).expect("the calling program");
        let names = (program.name().expect("a name"), called.name().expect("a name"));
        list.push((names.0, names.1, (offset - program.address()) / INSTRUCTION));
    }
    format!("&{list:?}")
}
