//! Commands that cures name: they reach the endpoint that is meant from the shell of whoever pastes them, whatever the name of
//! its device and wherever that is.

use super::Host;
use crate::kernel::netns;
use crate::model::endpoint::EndpointId;
use crate::model::shell::word;
use crate::model::text::is_hidden;
use crate::state::registry::Endpoint;

/// Of a namespace to which nothing leads that others may use.
const UNKNOWN: &str = "/proc/PID/ns/net";

impl Host<'_> {
    /// `cilmark attach` of its device, with these flags.
    pub fn attach(&self, endpoint: &Endpoint, flags: &str) -> String {
        attach_in(endpoint.netns, &endpoint.device, flags)
    }

    /// Another command about an endpoint, such as `policy add`, with what follows.
    pub fn command(&self, command: &str, endpoint: &Endpoint, rest: &str) -> String {
        line(&["cilmark", command, &self.word_for(endpoint), rest])
    }

    /// What a command takes for it in any namespace: its device only if no other is meant by that.
    pub fn word_for(&self, endpoint: &Endpoint) -> String {
        let Endpoint { id, device, netns, .. } = endpoint;
        let is_other = |it: &&Endpoint| it.id != *id && it.device == *device;
        let is_one = !self.endpoints.iter().any(|it| is_other(&it));
        let is_here = netns::home().is_ok_and(|home| home == *netns);
        word_for(*id, device, is_here && is_one)
    }

    /// Of what findings are: the device, with its namespace if that is not the one that is examined.
    pub fn name_of(&self, endpoint: &Endpoint) -> String {
        match endpoint.device.as_str() {
            "" => format!("id:{}", endpoint.id),
            device => self.name_in(endpoint.netns, device),
        }
    }

    /// The same of any device.
    pub fn name_in(&self, netns: u64, device: &str) -> String {
        if netns == 0 || self.namespaces.first() == Some(&netns) {
            return device.to_owned();
        }
        format!("{device} (netns {})", where_is(netns))
    }
}

/// `cilmark attach` of a device of a namespace, with these flags.
pub fn attach_in(netns: u64, device: &str, flags: &str) -> String {
    let place = match is_here(netns) {
        true => String::new(),
        false => format!("--netns {}", word(&where_is(netns))),
    };
    let attach = ["cilmark", &place, "attach"];
    let device = word(device);
    match device.starts_with('-') {
        false => line(&[&attach[..], &[&device, flags]].concat()),
        true => line(&[&attach[..], &[flags, "--", &device]].concat()),
    }
}

/// Another command that acts on the network namespace in which it is run, with its arguments.
pub fn tool_in(netns: u64, words: &[&str]) -> String {
    let words: Vec<String> = words.iter().copied().map(word).collect();
    let words = words.join(" ");
    if is_here(netns) {
        return words;
    }
    let path = netns::path_to(netns).map(|path| path.display().to_string());
    format!("nsenter --net={} {words}", word(&path.unwrap_or_else(|| UNKNOWN.to_owned())))
}

/// Whether a command that is pasted acts there by itself.
pub fn is_here(netns: u64) -> bool {
    netns == 0 || netns::home().is_ok_and(|home| home == netns)
}

/// A name of `ip netns`, or a path that leads there.
fn where_is(netns: u64) -> String {
    let path = || netns::path_to(netns).map(|path| path.display().to_string());
    netns::name_of(netns).or_else(path).unwrap_or_else(|| UNKNOWN.to_owned())
}

fn word_for(id: EndpointId, device: &str, is_enough: bool) -> String {
    match is_enough && !device.is_empty() && !device.starts_with('-') && !device.contains(is_hidden)
    {
        true => word(device),
        false => format!("id:{id}"),
    }
}

fn line(words: &[&str]) -> String {
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shell::commands;

    #[test]
    fn a_device_stays_one_word_of_a_shell() {
        for device in ["eth0", "$(touch>pwned)", "a;b", "it's", "`x`", "a&b|c", "~", "*"] {
            let line = attach_in(0, device, "--keep");
            assert_eq!(commands(&line), [["cilmark", "attach", device, "--keep"]], "{line}");
            let words = word_for(EndpointId::new(7).unwrap(), device, true);
            assert_eq!(commands(&words), [[device]], "{words}");
        }
        assert_eq!(attach_in(0, "-x", "--keep"), "cilmark attach --keep -- -x");
    }

    #[test]
    fn a_device_that_no_terminal_shows_is_written_in_digits_or_goes_by_its_number() {
        let id = EndpointId::new(7).unwrap();
        assert_eq!(attach_in(0, "a\u{1b}", ""), "cilmark attach $'a\\033'");
        assert_eq!(word_for(id, "a\u{1b}", true), "id:7");
        assert_eq!(word_for(id, "-x", true), "id:7");
        assert_eq!(word_for(id, "", true), "id:7");
        assert_eq!(word_for(id, "eth0", false), "id:7");
    }
}
