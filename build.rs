//! Compiles src/bpf/cilmark.bpf.c into a skeleton in OUT_DIR, and beside it enumerators.rs: their numbers, and what
//! output calls them. `CLANG` names the compiler.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

/// What the datapath and user space share.
const WIRE_FORMAT: &str = "src/bpf/abi";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let skeleton = out.join("cilmark.skel.rs");
    let mut builder = SkeletonBuilder::new();
    builder.source("src/bpf/cilmark.bpf.c").clang_args([
        "-Isrc/bpf",
        "-Ivmlinux",
        "-mcpu=v3",
        "-Wall",
        "-Wextra",
        "-Werror",
        // BTF names the file of each line: relative to here, wherever here is.
        "-ffile-compilation-dir=.",
    ]);
    if let Some(clang) = env::var_os("CLANG") {
        builder.clang(clang);
    }
    if let Err(error) = builder.build_and_generate(&skeleton) {
        panic!(
            "compile src/bpf/cilmark.bpf.c (needs clang 14 or newer; CLANG= names it): {error:#}"
        );
    }
    let generated = enumerators(&read(&skeleton), &names(Path::new(WIRE_FORMAT)));
    fs::write(out.join("enumerators.rs"), generated).expect("write to OUT_DIR");
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-changed=vmlinux");
    println!("cargo:rerun-if-env-changed=CLANG");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Enumerators and what `CM_NAME` in the headers of a directory calls them.
fn names(directory: &Path) -> Vec<(String, String)> {
    let mut names = Vec::new();
    for file in fs::read_dir(directory).expect("the headers of the wire format") {
        let header = read(&file.expect("a header").path());
        let mut parts = header.split("CM_NAME(\"");
        let mut before = parts.next().expect("the beginning");
        for part in parts {
            let enumerator = before.split_whitespace().next_back().expect("its enumerator");
            let (text, _) = part.split_once('"').expect("the end of a name");
            names.push((enumerator.to_owned(), text.to_owned()));
            before = part;
        }
    }
    names
}

/// A constant for each enumerator of the skeleton, and for each enum a table of what they are called: by `CM_NAME`, or
/// all of an enum that has none by what stands behind their common prefix. Only the last one, which says how many
/// there are, may go without.
fn enumerators(skeleton: &str, names: &[(String, String)]) -> String {
    let mut generated = String::new();
    for part in skeleton.split("        impl cm_").skip(1) {
        let (of, body) = part.split_once(" {\n").expect("an impl");
        let (body, _) = body.split_once("        }").expect("the end of an impl");
        let known: Vec<(&str, u32)> = body.lines().filter_map(enumerator).collect();
        let text_of = |name: &str| names.iter().find(|(of, _)| of == name).map(|(_, text)| text);
        let is_named = known.iter().any(|(name, _)| text_of(name).is_some());
        let prefix = common_prefix(&known);
        let mut table = String::new();
        for (index, (name, number)) in known.iter().enumerate() {
            let _ =
                writeln!(generated, "/// Of `enum cm_{of}`.\npub const {name}: u32 = {number};");
            let text = match text_of(name) {
                Some(text) => text.clone(),
                None if !is_named => name[prefix..].to_lowercase(),
                None if index + 1 == known.len() => continue,
                None => panic!("{name} has no CM_NAME in {WIRE_FORMAT}, as others of enum cm_{of}"),
            };
            let _ = writeln!(table, "    ({number}, {text:?}),");
        }
        let name = format!("CM_{}_NAMES", of.to_uppercase());
        let _ = writeln!(
            generated,
            "/// Of `enum cm_{of}`.\npub const {name}: &[(u32, &str)] = &[\n{table}];"
        );
    }
    generated
}

/// The length of what all begin with, up to an underscore.
fn common_prefix(enumerators: &[(&str, u32)]) -> usize {
    let [(first, _), others @ ..] = enumerators else { return 0 };
    let is_common = |at: &usize| others.iter().all(|(name, _)| name.starts_with(&first[..=*at]));
    let mut underscores = first.match_indices('_').map(|(at, _)| at).rev();
    underscores.find(is_common).map_or(0, |at| at + 1)
}

/// `pub const CM_IPV4: Self = Self(4);`
fn enumerator(line: &str) -> Option<(&str, u32)> {
    let (name, number) = line.trim().strip_prefix("pub const ")?.split_once(": Self = Self(")?;
    Some((name, number.strip_suffix(");")?.parse().ok()?))
}
