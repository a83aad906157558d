//! How a rule goes on that is not written to its end yet.

use super::{Direction, preposition};

/// What may come next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// One of these.
    Words(Vec<&'static str>),
    /// A peer.
    Peer,
    /// What of layer 4 it matches, or the end.
    L4,
    /// It has ended.
    End,
}

/// What may stand behind the first words of a rule; nothing behind words that make none.
pub fn next(words: &[&str]) -> Next {
    let directions = || Direction::ALL.iter().map(|it| it.name()).collect();
    match words {
        [] => Next::Words(vec!["allow", "deny"]),
        [_] => Next::Words(directions()),
        [_, direction] => {
            let direction: Option<Direction> = direction.parse().ok();
            Next::Words(direction.map(preposition).into_iter().collect())
        }
        [_, _, _] => Next::Peer,
        [_, _, _, _] => Next::L4,
        _ => Next::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_goes_on_as_it_is_read() {
        for (words, then) in [
            ("", Next::Words(vec!["allow", "deny"])),
            ("deny", Next::Words(vec!["ingress", "egress"])),
            ("deny ingress", Next::Words(vec!["from"])),
            ("allow egress", Next::Words(vec!["to"])),
            ("allow none", Next::Words(vec![])),
            ("allow egress to", Next::Peer),
            ("allow egress to any", Next::L4),
            ("allow egress to any tcp/1", Next::End),
        ] {
            assert_eq!(next(&words.split_whitespace().collect::<Vec<_>>()), then, "{words}");
        }
    }
}
