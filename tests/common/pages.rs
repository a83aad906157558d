//! What the pages of this repository say to paste.

use std::path::Path;

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
pub fn paste(world: &World, commands: &str) -> String {
    let binary = env!("CARGO_BIN_EXE_cilmark");
    let folder = Path::new(binary).parent().expect("its folder").display().to_string();
    world.sh(&format!("PATH={folder}:$PATH\n{commands}"))
}
