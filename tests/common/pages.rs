//! What the pages of this repository say to paste.

/// The blocks of a language below a heading, up to the next one.
pub fn blocks(page: &str, heading: &str, language: &str) -> Vec<String> {
    let (_, below) = page.split_once(heading).expect("the heading");
    let below = below.split("\n## ").next().expect("a section");
    let fence = format!("```{language}\n");
    let blocks = below.split(fence.as_str()).skip(1);
    blocks.map(|block| block.split("```").next().expect("its end").to_owned()).collect()
}
