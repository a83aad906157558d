//! How shells ask and are answered. Each gets a script, which runs `PROGRAM completions SHELL -- …` for each line that is to be
//! completed: a script of another version of the program goes on to work.

use clap::ValueEnum;

use super::{Offer, Paths, Value};
use crate::model::shell::{Token, Word, quoted, tokens};

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// From 4.4 on.
    Bash,
    /// From 5 on.
    Zsh,
    /// From 3 on.
    Fish,
}

impl Shell {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
        }
    }

    /// What makes the shell ask a program, which it looks for on PATH.
    pub fn script(self, program: &str) -> String {
        let script = match self {
            Shell::Bash => include_str!("complete.bash"),
            Shell::Zsh => include_str!("complete.zsh"),
            Shell::Fish => include_str!("complete.fish"),
        };
        script.replace("FUNCTION", &program.replace('-', "_")).replace("PROGRAM", program)
    }

    /// The words of what the script has handed over, of which the last is to be completed.
    pub fn words(self, handed: &[String]) -> Vec<String> {
        match self {
            Shell::Bash => bash_words(handed).into_iter().map(|word| word.text).collect(),
            Shell::Zsh => handed.to_vec(),
            // The last one stands as it was typed.
            Shell::Fish => match handed.split_last() {
                Some((last, before)) => {
                    before.iter().cloned().chain([last_word(last, "").text]).collect()
                }
                None => Vec::new(),
            },
        }
    }

    /// The answer, in lines: first whether paths are wanted, then a value each.
    pub fn answer(self, handed: &[String], offer: &Offer) -> String {
        let paths = match offer.paths {
            Paths::None => "values",
            Paths::Files => "files",
            Paths::Directories => "directories",
        };
        let mut text = format!("{paths}\n");
        for value in &offer.values {
            let line = match self {
                Shell::Bash => bash_value(&value.text, bash_words(handed).last()),
                Shell::Zsh | Shell::Fish => Some(with_about(value)),
            };
            line.into_iter().for_each(|line| text += &format!("{line}\n"));
        }
        text
    }
}

fn with_about(value: &Value) -> String {
    match value.about.as_str() {
        "" => value.text.clone(),
        about => format!("{}\t{about}", value.text),
    }
}

fn last_word(text: &str, breaks: &str) -> Word {
    match tokens(text, breaks).pop() {
        Some(Token::Word(word)) => word,
        Some(Token::Operator(_)) | None => Word::default(),
    }
}

/// Bash hands the line up to the cursor over, since it cuts words where no command does, and COMP_WORDBREAKS.
fn bash_words(handed: &[String]) -> Vec<Word> {
    let [line, breaks @ ..] = handed else { return Vec::new() };
    let tokens = tokens(line, breaks.first().map_or("", String::as_str));
    // What stands behind the last operator is the command, or the target of a redirection.
    let begin = tokens.iter().rposition(|it| matches!(it, Token::Operator(_)));
    let mut words: Vec<Word> = tokens
        .into_iter()
        .skip(begin.map_or(0, |begin| begin + 1))
        .filter_map(|it| match it {
            Token::Word(word) => Some(word),
            Token::Operator(_) => None,
        })
        .collect();
    let is_open = words.last().is_some_and(|word| word.open.is_some());
    if line.ends_with(char::is_whitespace) && !is_open && !line.ends_with("\\ ") {
        words.push(Word::default());
    }
    words
}

/// What takes the place of the part that readline takes for the word.
fn bash_value(text: &str, word: Option<&Word>) -> Option<String> {
    let (cut, open) = word.map_or((0, None), |word| (word.cut, word.open));
    quoted(text.get(cut..)?, open)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BREAKS: &str = " \t\n\"'@><=;|&(:";

    fn bash(line: &str, value: &str) -> (Vec<String>, String) {
        let handed = [line.to_owned(), BREAKS.to_owned()];
        let offer = Offer { values: vec![Value::with(value, "about")], paths: Paths::None };
        let words = Shell::Bash.words(&handed);
        (words, Shell::Bash.answer(&handed, &offer).replacen("values\n", "", 1))
    }

    #[test]
    fn bash_gets_what_is_to_stand_in_the_place_of_its_own_word() {
        for (line, words, value, answer) in [
            ("c status ", &["c", "status", ""][..], "veth0", "veth0\n"),
            ("c status ve", &["c", "status", "ve"], "veth$0", "veth\\$0\n"),
            ("c detach id:", &["c", "detach", "id:"], "id:1", "1\n"),
            ("c policy list @w", &["c", "policy", "list", "@w"], "@web", "@web\n"),
            ("c --netns=a", &["c", "--netns=a"], "--netns=a b", "a\\ b\n"),
            ("c x 'allow in", &["c", "x", "allow in"], "allow ingress", "allow ingress\n"),
            ("c x 'allow in", &["c", "x", "allow in"], "allow it's", ""),
            ("c x 'allow ", &["c", "x", "allow "], "allow ingress", "allow ingress\n"),
            ("c x allow\\ ", &["c", "x", "allow "], "allow ingress", "allow\\ ingress\n"),
        ] {
            let (found, text) = bash(line, value);
            assert_eq!(
                (found, text.as_str()),
                (words.iter().map(|it| it.to_string()).collect(), answer),
                "{line}"
            );
        }
    }

    #[test]
    fn the_last_word_of_fish_stands_as_it_was_typed() {
        let words = |last: &str| Shell::Fish.words(&["c".to_owned(), last.to_owned()]);
        assert_eq!(words("'a b"), ["c", "a b"]);
        assert_eq!(words("a\\ b"), ["c", "a b"]);
        assert_eq!(words(""), ["c", ""]);
    }
}
