//! What the pages of this repository say to paste.

use std::path::Path;
use std::process::{Command, Output};

use super::World;

/// The blocks of a language below a heading, up to the next one.
pub fn blocks(page: &str, heading: &str, language: &str) -> Vec<String> {
    let (_, below) = page.split_once(heading).expect("the heading");
    let below = below.split("\n## ").next().expect("a section");
    let fence = format!("```{language}\n");
    let blocks = below.split(fence.as_str()).skip(1);
    blocks.map(|block| block.split("```").next().expect("its end").to_owned()).collect()
}

/// Pastes commands into a shell in which `cilmark` is the one under test. It ends at the first one that fails; what they
/// print.
pub fn paste(_of: &World, commands: &str) -> String {
    let output = shell(&format!("set -e\n{commands}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{commands}` failed: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The same, going on where one fails, as a person's shell does.
pub fn paste_all(_of: &World, commands: &str) {
    shell(commands);
}

/// As in a person's shell, what runs in the background has a process group of its own.
fn shell(commands: &str) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_cilmark"));
    let folder = binary.parent().expect("its folder").display();
    let commands = format!("set -m; PATH={folder}:$PATH\n{commands}");
    Command::new("bash").args(["-c", &commands]).output().expect("run bash")
}
