//! Lines of a shell: how it cuts them into words, and how a word is written so that it stays one.

use super::text::{is_hidden, to_bytes};

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A word, without the quotes that it had.
    Word(Word),
    /// One of `|`, `;`, `&`, `<`, `>`, `(` and `)`.
    Operator(char),
}

/// A word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// What it says.
    pub text: String,
    /// The quote that the line ends in.
    pub open: Option<char>,
    /// Up to which byte of the text readline takes it for other words: it cuts at quotes and at the characters of
    /// COMP_WORDBREAKS.
    pub cut: usize,
}

const OPERATORS: &str = "|;&<>()";

/// The words and operators of a line, by the rules of POSIX for quotes and backslashes; nothing is expanded. `breaks` is
/// COMP_WORDBREAKS.
pub fn tokens(line: &str, breaks: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<Word> = None;
    let mut letters = line.chars();
    while let Some(c) = letters.next() {
        let quote = word.as_ref().and_then(|word| word.open);
        let now = match (quote, c) {
            (None, c) if c.is_whitespace() => {
                tokens.extend(word.take().map(Token::Word));
                continue;
            }
            (None, c) if OPERATORS.contains(c) => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(Token::Operator(c));
                continue;
            }
            _ => word.get_or_insert_default(),
        };
        match (quote, c) {
            (None, '\'' | '"') => {
                now.open = Some(c);
                now.cut = now.text.len();
            }
            (Some(quote), c) if quote == c => {
                now.open = None;
                now.cut = now.text.len();
            }
            (None, '\\') => now.text.extend(letters.next()),
            (Some('"'), '\\') => match letters.next() {
                Some(c) if "\"\\$`".contains(c) => now.text.push(c),
                other => now.text.extend(['\\'].into_iter().chain(other)),
            },
            (quote, c) => {
                let before = now.text.len();
                now.text.push(c);
                if quote.is_none() && breaks.contains(c) {
                    // What begins the name of a host stays in the word (rl_special_prefixes of bash).
                    now.cut = if c == '@' { before } else { now.text.len() };
                }
            }
        }
    }
    tokens.extend(word.map(Token::Word));
    tokens
}

/// The commands of a line, each with its words: without variables that are set for it, and without redirections.
pub fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut is_target = false;
    for token in tokens(line, "") {
        match token {
            Token::Operator('<' | '>') => is_target = true,
            Token::Operator(_) => {
                is_target = false;
                commands.push(Vec::new());
            }
            Token::Word(_) if is_target => is_target = false,
            Token::Word(word) => {
                if let Some(command) = commands.last_mut() {
                    let sets = word.text.split_once('=').is_some_and(|(name, _)| is_variable(name));
                    if !(command.is_empty() && sets) {
                        command.push(word.text);
                    }
                }
            }
        }
    }
    commands.retain(|words| !words.is_empty());
    commands
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// How a text is written, or goes on behind an open quote. `None` if it can't be written there.
pub fn quoted(text: &str, open: Option<char>) -> Option<String> {
    match open {
        Some('\'') => (!text.contains('\'')).then(|| text.to_owned()),
        // A shell of a person takes ! for its history, and a backslash before it stays.
        Some(_) if text.contains('!') => None,
        Some(_) => Some(escaped(text, |c| "\"\\$`".contains(c))),
        None => Some(escaped(text, |c| !(c.is_alphanumeric() || "_@%+=:,./-".contains(c)))),
    }
}

/// A text as a shell takes it for one word, in a command that somebody is told to paste; also where a terminal can't show
/// it.
pub fn word(text: &str) -> String {
    if !text.contains(is_hidden) {
        return quoted(text, None).unwrap_or_default();
    }
    let octal = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("\\{byte:03o}"),
    };
    format!("$'{}'", to_bytes(text).into_iter().map(octal).collect::<String>())
}

fn escaped(text: &str, is_special: impl Fn(char) -> bool) -> String {
    let escape = |c| is_special(c).then_some('\\').into_iter().chain([c]);
    text.chars().flat_map(escape).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BREAKS: &str = " \t\n\"'@><=;|&(:";

    fn last(line: &str) -> Word {
        match tokens(line, BREAKS).pop() {
            Some(Token::Word(word)) => word,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn words_are_cut_as_a_shell_does() {
        let words = |line: &str| commands(line).remove(0);
        assert_eq!(words("a  'b c' \"d \\\" e\"f g\\ h"), ["a", "b c", "d \" ef", "g h"]);
        assert_eq!(words("a '' \"\""), ["a", "", ""]);
        assert_eq!(words("a '\\' \"\\x\""), ["a", "\\", "\\x"]);
    }

    #[test]
    fn a_line_has_commands_without_what_the_shell_does_for_them() {
        assert_eq!(
            commands("X=1 Y= a b=c <d | e 2 >f; g"),
            [&["a", "b=c"][..], &["e", "2"], &["g"]]
        );
        assert_eq!(commands("source <(a 'b|c')"), [&["source"][..], &["a", "b|c"]]);
        assert!(commands("").is_empty());
    }

    #[test]
    fn the_last_word_says_where_it_goes_on() {
        for (line, text, open, cut) in [
            ("a we", "we", None, 0),
            ("a id:1", "id:1", None, 3),
            ("a @we", "@we", None, 0),
            ("a x=@we", "x=@we", None, 2),
            ("a --x=id:1", "--x=id:1", None, 7),
            ("a id\\:1", "id:1", None, 0),
            ("a 'x id:1", "x id:1", Some('\''), 0),
            ("a x\"y z", "xy z", Some('"'), 1),
            ("a 'x'y", "xy", None, 1),
        ] {
            let word = last(line);
            assert_eq!((word.text.as_str(), word.open, word.cut), (text, open, cut), "{line}");
        }
    }

    #[test]
    fn what_a_quote_cannot_have_is_not_written() {
        assert_eq!(quoted("it's", Some('\'')), None);
        assert_eq!(quoted("a!b", Some('"')), None);
        assert_eq!(quoted("a!$b", None).as_deref(), Some("a\\!\\$b"));
    }

    #[test]
    fn what_no_terminal_shows_is_written_in_digits() {
        assert_eq!(word("a\u{1b}1'\u{f7ff}"), "$'a\\0331\\047\\377'");
        assert_eq!(word("a;reboot"), "a\\;reboot");
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_again(text in "[ -~ä-ü]{1,20}", open in prop::option::of(prop_oneof![Just('"'), Just('\'')])) {
            let Some(written) = quoted(&text, open) else { return Ok(()) };
            let line = format!("{0}{written}{0}", open.map(String::from).unwrap_or_default());
            let [Token::Word(word)] = &tokens(&line, BREAKS)[..] else { panic!("{line}") };
            prop_assert_eq!(&word.text, &text);
        }
    }
}
