//! Text from outside: device names, which the kernel lets be any bytes, arguments, names of files.
//!
//! Inside it is a `String`, in which each byte that is no UTF-8 stands as a character of its own, U+F780
//! to U+F7FF (private use), so that the bytes come back. A terminal gets none of these, and no control
//! character either: what sets its title, clears it or turns the reading direction is shown in digits.

use std::borrow::Cow;
use std::fmt::Write;

/// Where the bytes 0x80 to 0xff begin.
const BYTES: u32 = 0xf700;

/// The text of bytes, which [`to_bytes`] gives back.
pub fn from_bytes(bytes: &[u8]) -> String {
    let mut text = String::new();
    let add_bytes = |text: &mut String, bytes: &[u8]| {
        text.extend(bytes.iter().filter_map(|byte| char::from_u32(BYTES + u32::from(*byte))));
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match byte_of(c) {
                None => text.push(c),
                // Else two names would be one.
                Some(_) => add_bytes(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        add_bytes(&mut text, chunk.invalid());
    }
    text
}

/// The bytes of a text from [`from_bytes`].
pub fn to_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// The text as a terminal may have it, on one line.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    for c in text.chars() {
        match byte_of(c).or_else(|| c.is_ascii().then_some(c as u8)) {
            _ if !is_hidden(c) => shown.push(c),
            Some(byte) => _ = write!(shown, "\\x{byte:02x}"),
            None => _ = write!(shown, "\\u{{{:x}}}", u32::from(c)),
        }
    }
    Cow::Owned(shown)
}

/// The lines of a file that say anything, each with its number, from 1; `#` begins a comment.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        (!line.is_empty()).then_some((index + 1, line))
    })
}

fn byte_of(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(BYTES)?).ok().filter(|byte| *byte >= 0x80)
}

/// Whether it stands for a byte that is no UTF-8.
pub fn is_byte(c: char) -> bool {
    byte_of(c).is_some()
}

/// Whether it would do something other than be seen.
pub fn is_hidden(c: char) -> bool {
    let turns_or_joins = matches!(
        c,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    c.is_control() || turns_or_joins || is_byte(c)
}

/// The pieces of a text that `;`, `,` or the end of a line separates.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split([';', ',', '\n']).map(str::trim).filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_seen_has_no_control_characters_and_one_line() {
        for (bytes, seen) in [
            (&b"eth0"[..], "eth0"),
            (b"e\x1b[31m", "e\\x1b[31m"),
            (b"x\xff\xfe", "x\\xff\\xfe"),
            (b"\r\n\t\x7f\0", "\\x0d\\x0a\\x09\\x7f\\x00"),
            ("\u{9b}31m \u{202e} é".as_bytes(), "\\u{9b}31m \\u{202e} é"),
            ("\u{f7ff}".as_bytes(), "\\xef\\x9f\\xbf"),
        ] {
            assert_eq!(visible(&from_bytes(bytes)), seen, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn every_bytes_come_back(bytes: Vec<u8>) {
            prop_assert_eq!(to_bytes(&from_bytes(&bytes)), bytes);
        }

        #[test]
        fn text_of_everyday_is_as_it_was(text in "[ -~ä-ü]*") {
            prop_assert_eq!(from_bytes(text.as_bytes()), text.as_str());
            prop_assert_eq!(visible(&text), text.as_str());
        }
    }
}
