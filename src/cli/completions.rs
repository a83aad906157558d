//! `cilmark completions`.

mod kinds;
mod line;
mod rules;
#[cfg(test)]
mod tests;
mod values;

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::Result;
use line::Line;

use super::guide::complete::complete;
use super::guide::complete::shell::Shell;
use super::{Global, cluster, command};
use crate::model::text;
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// The shell that the script is for
    shell: Shell,
    /// What the script asks with: a line, whose last word may become what is printed then
    #[arg(last = true, value_name = "LINE")]
    line: Vec<String>,
}

impl Args {
    /// Whether a script asks. It stands in a person's prompt, and so nothing is said of errors.
    pub fn is_asked(&self) -> bool {
        !self.line.is_empty()
    }
}

/// Prints the script.
pub fn run(args: &Args) -> Result<()> {
    output::lines(&args.shell.script("cilmark"))
}

/// Prints what the last word of a line may be; nothing where that can't be told.
pub fn answer(global: &Global, args: &Args) {
    let words = args.shell.words(&args.line);
    let line = Line::of(global.bpffs.clone(), words);
    if line.command() == Some("cluster") {
        // Where that is not there is no cluster.
        _ = cluster::find().map(|program| ask(Command::new(program), &line, args));
        return;
    }
    let words = line.words.clone();
    let offer = complete(command(), &words, &line.asks());
    _ = output::as_it_is(&args.shell.answer(&args.line, &offer));
}

/// Has another program answer in the place of this one.
fn ask(mut program: Command, line: &Line, args: &Args) -> io::Error {
    program.arg("--bpffs").arg(line.root.path());
    let line = args.line.iter().map(|word| OsString::from_vec(text::to_bytes(word)));
    program.args(["completions", args.shell.name(), "--"]).args(line).stderr(Stdio::null()).exec()
}
