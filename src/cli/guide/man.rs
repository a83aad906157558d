//! Man pages, one for each command, in section 8. No date stands in them: the same program writes the same pages.

mod sections;

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::Roff;

use sections::{name, of_notes, see_also, subcommands, synopsis};

use super::{Guide, under};
use crate::output;

const SECTION: &str = "8";

/// A page.
pub struct Page {
    /// Of which command, such as `policy add`; of the program itself "".
    pub path: String,
    /// Such as `cilmark-policy-add`.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

impl Page {
    /// The name of its file.
    pub fn file(&self) -> String {
        format!("{}.{SECTION}", self.name)
    }
}

/// The pages of a program and of all its commands.
pub fn pages(command: Command, guide: &Guide) -> io::Result<Vec<Page>> {
    let version = command.get_version().unwrap_or_default().to_owned();
    let mut command = without_help(command);
    command.build();
    let program = Program { name: command.get_name().to_owned(), version, guide };
    let mut pages = Vec::new();
    program.add(&mut pages, &command, "", &[])?;
    Ok(pages)
}

/// Prints the page of one command.
pub fn print(pages: &[Page], path: &str) -> Result<()> {
    let page = pages.iter().find(|page| page.path == path).with_context(|| {
        let program = pages.first().map_or("", |page| &page.name);
        format!("{program} has no command `{path}`; `{program} help` lists those that it has")
    })?;
    output::lines(&page.text)
}

/// Writes pages into a directory, which is made if it is not there.
pub fn write(pages: &[Page], dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    pages.iter().try_for_each(|page| {
        let path = dir.join(page.file());
        fs::write(&path, &page.text).with_context(|| format!("write {}", path.display()))
    })
}

/// `help` has no page of its own: these are the help.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

struct Program<'a> {
    name: String,
    version: String,
    guide: &'a Guide,
}

impl Program<'_> {
    /// The page of a command, and those below it. `around` are the commands that stand beside it or above it.
    fn add(
        &self,
        pages: &mut Vec<Page>,
        command: &Command,
        path: &str,
        around: &[&str],
    ) -> io::Result<()> {
        let own = name(command);
        let text = self.page(command, path, around)?;
        pages.push(Page { path: path.to_owned(), name: own.to_owned(), text });
        let below: Vec<&str> = command.get_subcommands().map(name).collect();
        for it in command.get_subcommands() {
            let others = below.iter().filter(|other| **other != name(it));
            let program = Some(self.name.as_str()).filter(|name| *name != own);
            let around: Vec<&str> = program.iter().chain([&own]).chain(others).copied().collect();
            self.add(pages, it, &under(path, it.get_name()), &around)?;
        }
        Ok(())
    }

    fn page(&self, command: &Command, path: &str, around: &[&str]) -> io::Result<String> {
        let notes = self.guide.with_common(path);
        let man = Man::new(command.clone());
        let mut page = Text::default();
        page.add(|to| self.title(command).to_writer(to))?;
        page.add(|to| man.render_name_section(to))?;
        page.add(|to| synopsis(command).to_writer(to))?;
        page.add(|to| man.render_description_section(to))?;
        page.add(|to| man.render_options_section(to))?;
        page.add(|to| subcommands(command).to_writer(to))?;
        page.add(|to| of_notes(&notes).to_writer(to))?;
        page.add(|to| see_also(command, around, &notes).to_writer(to))?;
        Ok(page.0)
    }

    fn title(&self, command: &Command) -> Roff {
        let source = format!("{} {}", self.name, self.version);
        let manual = format!("{} manual", self.name);
        let mut roff = Roff::new();
        // An empty argument vanishes, and what stands behind it would be the date.
        let no_date = "\"\"";
        roff.control("TH", [&name(command).to_uppercase(), SECTION, no_date, &source, &manual]);
        // Nothing to paste is hyphenated, and no gaps make lines as long as each other.
        roff.control("nh", []).control("ad", ["l"]);
        roff
    }
}

/// What is put together of pieces that each begin with a definition of the apostrophe, of which one is enough.
#[derive(Default)]
struct Text(String);

impl Text {
    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        let mut bytes = Vec::new();
        write(&mut bytes)?;
        let piece = String::from_utf8(bytes).map_err(io::Error::other)?;
        let preamble = Roff::new().render();
        let piece = if self.0.is_empty() { &piece } else { piece.trim_start_matches(&preamble) };
        self.0.push_str(piece);
        Ok(())
    }
}
