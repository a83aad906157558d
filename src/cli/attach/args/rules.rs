//! `--rule` and `--rules`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cli::{file, path_of, policy};
use crate::model::identity::Names;
use crate::model::rule::Rule;
use crate::model::text;

#[derive(clap::Args)]
#[group(skip)]
pub struct Rules {
    /// The rules that it shall have from its first packet on, and no others, such as `allow ingress from 1234
    /// tcp/443`; without --rule and --rules it keeps those that it has
    #[arg(long, value_name = "RULE", num_args = 1..)]
    rule: Vec<String>,
    /// The same from a file, one a line, behind those of --rule; `#` begins a comment, `-` is stdin
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

impl Rules {
    /// Those that are given, all of them readable; `None` if nothing is said of rules.
    pub fn read(&self, names: impl FnOnce() -> Result<Names>) -> Result<Option<Vec<String>>> {
        if self.rule.is_empty() && self.rules.is_none() {
            return Ok(None);
        }
        let names = &names()?;
        let mut rules = match self.rule.is_empty() {
            true => Vec::new(),
            false => policy::split(&self.rule),
        };
        rules.iter().try_for_each(|rule| Rule::parse(rule, names).map(drop))?;
        let Some(path) = self.rules.clone().map(path_of) else {
            return Ok(Some(rules));
        };
        for (number, rule) in text::lines(&file::read(&path)?) {
            Rule::parse(rule, names)
                .with_context(|| format!("{}, line {number}", path.display()))?;
            rules.push(rule.to_owned());
        }
        Ok(Some(rules))
    }
}
