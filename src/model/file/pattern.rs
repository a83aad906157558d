//! Which devices an endpoint of a file is for.

/// The name of a device, or a pattern of names: `*` stands for any characters, `?` for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern<'a>(pub &'a str);

impl Pattern<'_> {
    /// Whether it may stand for several devices.
    pub fn is_wild(self) -> bool {
        self.0.contains(['*', '?'])
    }

    /// Whether it stands for a device of this name.
    pub fn matches(self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        // Where to go on if it turns out that the last `*` stands for more.
        let (mut at, mut in_name, mut again) = (0, 0, None);
        while in_name < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    again = Some((at + 1, in_name));
                    at += 1;
                }
                Some(b'?') => (at, in_name) = (at + 1, in_name + 1),
                Some(byte) if *byte == name[in_name] => (at, in_name) = (at + 1, in_name + 1),
                _ => match again {
                    Some((behind, taken)) => {
                        (at, in_name) = (behind, taken + 1);
                        again = Some((behind, taken + 1));
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_whole_names() {
        for (pattern, name, is_match) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("ve-*", "ve-web", true),
            ("ve-*", "ve-", true),
            ("ve-*", "xve-web", false),
            ("*", "anything", true),
            ("v?th*", "veth12", true),
            ("v?th*", "vth12", false),
            ("*-a*b", "x-a-aab", true),
            ("*-a*b", "x-a-aac", false),
            ("", "", true),
            ("?", "", false),
        ] {
            assert_eq!(Pattern(pattern).matches(name), is_match, "{pattern} {name}");
        }
    }
}
