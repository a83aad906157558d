//! What a runtime asks for, by the environment of the plugin.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context as _, Result, ensure};

use super::{Code, Error};
use crate::model::owner::Owner;
use crate::model::wish::{Said, Wish};

/// A command, with what the environment says of it.
#[derive(Debug)]
pub enum Call {
    /// Attach a container to a network.
    Add(Where),
    /// Detach it.
    Del(Attachment),
    /// Is it as it is to be?
    Check(Where),
    /// Remove what is left of attachments that are gone.
    Gc,
    /// Would ADD work?
    Status,
    /// Which versions are spoken?
    Version,
}

/// A container on a network: what the specification tells attachments apart by.
#[derive(Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The container.
    pub container: Owner,
    /// The name of its device inside.
    pub ifname: String,
}

/// An attachment, where it is, and what CNI_ARGS says of it.
#[derive(Debug)]
pub struct Where {
    /// Which.
    pub attachment: Attachment,
    /// The path of its network namespace.
    pub netns: String,
    /// What is said of it.
    pub said: Said,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container)
    }
}

const COMMANDS: &str = "ADD, DEL, CHECK, GC, STATUS and VERSION";

impl Call {
    /// Of the environment's variables. An error names each that is missing or wrong.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Call, Error> {
        let mut variables = Variables { variable, wrong: Vec::new() };
        let command = variables.get("CNI_COMMAND").unwrap_or_default();
        let call = match command.as_str() {
            "GC" => Some(Call::Gc),
            "STATUS" => Some(Call::Status),
            "VERSION" => Some(Call::Version),
            "DEL" => variables.attachment().map(Call::Del),
            "ADD" => variables.whereabouts().map(Call::Add),
            "CHECK" => variables.whereabouts().map(Call::Check),
            "" => None,
            other => {
                variables.wrong(format!("CNI_COMMAND: `{other}` is no command; {COMMANDS} are"));
                None
            }
        };
        call.ok_or_else(|| {
            let details = format!(
                "{}; a container runtime sets these and calls the plugin: `cilmark cni install` puts it where that looks",
                variables.wrong.join("; ")
            );
            Error::new(Code::InvalidEnvironment, "the environment of the plugin", details)
        })
    }
}

/// The environment, and what is wrong with it.
struct Variables<F> {
    variable: F,
    wrong: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// One that has to be there.
    fn get(&mut self, name: &str) -> Option<String> {
        let value = (self.variable)(name).filter(|value| !value.is_empty());
        if value.is_none() {
            self.wrong(format!("{name} is missing"));
        }
        value
    }

    /// One that has to be there, as this reads it.
    fn parsed<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T>) -> Option<T> {
        let value = self.get(name)?;
        let parsed = read(&value).map_err(|error| self.wrong(format!("{name}: {error:#}")));
        parsed.ok()
    }

    fn attachment(&mut self) -> Option<Attachment> {
        let container = self.parsed("CNI_CONTAINERID", container);
        let ifname = self.parsed("CNI_IFNAME", ifname);
        Some(Attachment { container: container?, ifname: ifname? })
    }

    fn whereabouts(&mut self) -> Option<Where> {
        let attachment = self.attachment();
        let netns = self.get("CNI_NETNS");
        let arguments = (self.variable)("CNI_ARGS").unwrap_or_default();
        let wish =
            arguments_of(&arguments).map_err(|error| self.wrong(format!("CNI_ARGS: {error:#}")));
        let said = Said::by("cni-args", wish.ok()?);
        Some(Where { attachment: attachment?, netns: netns?, said })
    }
}

/// The number of a container.
fn container(text: &str) -> Result<Owner> {
    check_name(text)?;
    Owner::try_from(text.to_owned())
}

/// Fails for a name that is not as the specification has those of containers and of networks.
pub(super) fn check_name(text: &str) -> Result<()> {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    ensure!(
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_inner),
        "`{text}` is no such name: it begins with a letter or a digit, and has but these, `_`, `.` and `-`"
    );
    Ok(())
}

/// The name of a device.
fn ifname(text: &str) -> Result<String> {
    ensure!(
        text.len() < 16
            && !matches!(text, "." | "..")
            && !text.contains(|c: char| matches!(c, '/' | ':') || c.is_whitespace()),
        "`{text}` is no name of a network device: it has at most 15 bytes, none of them `/`, `:` or a blank"
    );
    Ok(text.to_owned())
}

/// What CNI_ARGS says to cilmark: `cilmark.id=web;cilmark.rules=…`, or the same keys as `CILMARK_ID`. All others are
/// somebody else's.
fn arguments_of(text: &str) -> Result<Wish> {
    let (mut wish, mut seen) = (Wish::default(), BTreeSet::new());
    for pair in text.split(';') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (key.trim(), value.trim());
        let short = match key.strip_prefix("cilmark.") {
            Some(short) => short.to_owned(),
            None => match key.strip_prefix("CILMARK_") {
                Some(short) if !short.contains(|c: char| c.is_ascii_lowercase()) => {
                    short.to_ascii_lowercase()
                }
                Some(short) => short.to_owned(),
                None => continue,
            },
        };
        wish.set(&short, value).with_context(|| key.to_owned())?;
        ensure!(seen.insert(short), "{key} is there twice");
    }
    Ok(wish)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(variables: &[(&str, &str)]) -> Result<Call, Error> {
        Call::of(|name| {
            let (_, value) = variables.iter().find(|(key, _)| *key == name)?;
            Some((*value).to_owned())
        })
    }

    const ADD: [(&str, &str); 4] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/c1"),
    ];

    fn add(variable: &str, value: &str) -> Result<Call, Error> {
        let others = ADD.iter().filter(|(key, _)| *key != variable).copied();
        call(&others.chain([(variable, value)]).collect::<Vec<_>>())
    }

    /// An error that names these.
    fn is_wrong(call: Result<Call, Error>, names: &[&str]) {
        let error = call.expect_err("an error");
        assert_eq!(error.code, Code::InvalidEnvironment);
        for name in names {
            assert!(error.details.contains(name), "{error:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_all_at_once() {
        is_wrong(call(&[]), &["CNI_COMMAND is missing"]);
        is_wrong(
            call(&ADD[..1]),
            &["CNI_CONTAINERID is missing", "CNI_IFNAME is missing", "CNI_NETNS is missing"],
        );
        is_wrong(add("CNI_NETNS", ""), &["CNI_NETNS is missing"]);
        is_wrong(add("CNI_COMMAND", "add"), &["CNI_COMMAND: `add`", "CHECK"]);
    }

    #[test]
    fn detaching_takes_no_namespace_and_the_commands_of_a_network_no_container() {
        let del = call(&[("CNI_COMMAND", "DEL"), ADD[1], ADD[2]]).expect("a call");
        assert!(matches!(del, Call::Del(at) if at.container.get() == "c1" && at.ifname == "eth0"));
        for command in ["GC", "STATUS", "VERSION"] {
            assert!(call(&[("CNI_COMMAND", command)]).is_ok(), "{command}");
        }
    }

    #[test]
    fn names_are_as_the_specification_has_them() {
        for good in ["a", "4711", "Ab_1.2-x", &"a".repeat(255)] {
            assert!(add("CNI_CONTAINERID", good).is_ok(), "{good}");
        }
        for bad in ["-a", ".a", "_a", "a/b", "a b", "ä", "a:b", &"a".repeat(256)] {
            is_wrong(add("CNI_CONTAINERID", bad), &["CNI_CONTAINERID: "]);
        }
        for bad in [".", "..", "a/b", "a:b", "a b", "a\tb", "0123456789abcdef"] {
            is_wrong(add("CNI_IFNAME", bad), &["CNI_IFNAME: "]);
        }
        assert!(add("CNI_IFNAME", "0123456789abcde").is_ok());
    }

    fn said(arguments: &str) -> Wish {
        match add("CNI_ARGS", arguments).expect("a call") {
            Call::Add(Where { said, .. }) => said.wish,
            call => panic!("{call:?}"),
        }
    }

    #[test]
    fn arguments_of_others_do_not_matter_and_ours_have_two_spellings() {
        let others = "IgnoreUnknown=1;K8S_POD_NAME=web;cilmarks=1;what;";
        assert_eq!(said(others), Wish::default());
        for ours in
            ["cilmark.id=300;cilmark.labels=a=b,c=d", "CILMARK_ID=300;K=V; CILMARK_LABELS=a=b,c=d"]
        {
            let wish = said(ours);
            assert_eq!(wish.id.map(|id| id.to_string()).as_deref(), Some("300"), "{ours}");
            assert_eq!(
                wish.labels.map(|labels| labels.to_string()).as_deref(),
                Some("a=b,c=d"),
                "{ours}"
            );
        }
    }

    #[test]
    fn an_argument_of_ours_that_is_misspelt_empty_or_there_twice_is_an_error() {
        for (arguments, word) in [
            ("cilmark.identity=300", "cilmark.identity"),
            ("CILMARK_Id=300", "CILMARK_Id"),
            ("CILMARK_RULE=x", "CILMARK_RULE"),
            ("cilmark.id", "cilmark.id"),
            ("cilmark.policy=on", "cilmark.policy"),
            ("cilmark.id=300;CILMARK_ID=301", "twice"),
        ] {
            is_wrong(add("CNI_ARGS", arguments), &["CNI_ARGS: ", word]);
        }
    }
}
