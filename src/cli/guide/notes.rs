//! The text that has what clap does not know of commands: src/cli/guide/cilmark.txt begins with how it is written.

use std::collections::BTreeMap;

/// What is said of each command.
pub struct Guide {
    of: BTreeMap<&'static str, Notes>,
    wrong: Vec<&'static str>,
}

/// What is said of one command.
#[derive(Default, Clone)]
pub struct Notes {
    /// What it is, beyond its one line: paragraphs.
    pub text: Vec<String>,
    /// How it is called.
    pub examples: Vec<Example>,
    /// Exit statuses, each with what it means.
    pub exit: Vec<(&'static str, &'static str)>,
    /// Variables of the environment.
    pub environment: Vec<(&'static str, &'static str)>,
    /// Files.
    pub files: Vec<(&'static str, &'static str)>,
    /// Man pages of others, such as `nft(8)`.
    pub see: Vec<&'static str>,
}

/// One example.
#[derive(Clone)]
pub struct Example {
    /// What it does.
    pub does: &'static str,
    /// The lines to paste.
    pub lines: Vec<&'static str>,
}

impl Guide {
    /// Reads a text. No command shall fail for a mistake in it: such lines are left out, and tests find them.
    pub fn read(text: &'static str) -> Guide {
        let mut guide = Guide { of: BTreeMap::new(), wrong: Vec::new() };
        let mut path = "";
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                Some(name) => path = name,
                None if guide.of.entry(path).or_default().add(line).is_none() => {
                    guide.wrong.push(line);
                }
                None => {}
            }
        }
        guide
    }

    /// Of the command with this path, such as `policy add`, alone; of the program itself that is "".
    pub fn of(&self, path: &str) -> Notes {
        self.of.get(path).cloned().unwrap_or_default()
    }

    /// The same with what counts for all commands. Where both speak of the same status or file, the command's own counts.
    pub fn with_common(&self, path: &str) -> Notes {
        let mut notes = self.of(path);
        let common = self.of("*");
        let fill = |own: &mut Vec<(&'static str, &'static str)>, common: Vec<(&'static str, _)>| {
            for line in common {
                if own.iter().all(|(name, _)| *name != line.0) {
                    own.push(line);
                }
            }
        };
        fill(&mut notes.exit, common.exit);
        fill(&mut notes.environment, common.environment);
        fill(&mut notes.files, common.files);
        notes.exit.sort_unstable();
        notes
    }

    /// Lines that say nothing: they stand below no example or paragraph.
    pub fn wrong(&self) -> &[&'static str] {
        &self.wrong
    }

    /// All paths of which anything is said.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.of.keys().copied().filter(|path| *path != "*")
    }
}

impl Notes {
    /// `None` if nothing stands above the line that it belongs to.
    fn add(&mut self, line: &'static str) -> Option<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let pair = || rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "text" => self.text.push(rest.to_owned()),
            "" => self.text.last_mut()?.extend([" ", rest.trim_start()]),
            "exit" => self.exit.push(pair()),
            "env" => self.environment.push(pair()),
            "file" => self.files.push(pair()),
            "see" => self.see.push(rest),
            ">" => self.examples.push(Example { does: rest, lines: Vec::new() }),
            _ => self.examples.last_mut()?.lines.push(line),
        }
        Some(())
    }
}
