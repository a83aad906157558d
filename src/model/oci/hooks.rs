//! The hooks of a container, as its `config.json` and Podman's hooks.d name them.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Stage;
use super::object::{Object, raw};

/// How long a runtime waits for a hook, in seconds: longer than the hook itself does for others to be done.
const TIMEOUT: u32 = 65;

/// A hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hook {
    path: String,
    args: Vec<String>,
    timeout: u32,
}

/// What is asked of the hook of somebody.
#[derive(Deserialize)]
struct Known {
    #[serde(default)]
    args: Option<Vec<String>>,
}

impl Hook {
    /// cilmark's, of a stage: the path of the command, and its options.
    pub fn new(command: &str, stage: Stage, options: &[String]) -> Hook {
        let args = ["cilmark", "oci", stage.name()].map(str::to_owned);
        let args = args.into_iter().chain(options.iter().cloned()).collect();
        Hook { path: command.to_owned(), args, timeout: TIMEOUT }
    }

    /// Whether a hook is cilmark's, perhaps by another path or with other options.
    fn replaces(&self, other: &RawValue) -> bool {
        let other: Option<Known> = serde_json::from_str(other.get()).ok();
        other.and_then(|other| other.args).is_some_and(|args| args.starts_with(&self.args[..3]))
    }
}

/// Adds hooks to a `config.json`, behind all others, which may set up the network; once, however often it is done. `None`
/// if they are there.
pub fn add(config: &str, hooks: &[(Stage, Hook)]) -> Result<Option<String>> {
    let mut config = Object::parse(config)?;
    let mut all = config.object("hooks")?;
    let before = all.compact()?;
    for (stage, hook) in hooks {
        let mut list = all.list(stage.name()).context("`hooks`")?;
        list.retain(|other| !hook.replaces(other));
        list.push(raw(hook)?);
        all.set(stage.name(), raw(&list)?);
    }
    let after = all.compact()?;
    if same(&before, &after)? {
        return Ok(None);
    }
    config.set("hooks", after);
    Ok(Some(config.compact()?.get().to_owned()))
}

fn same(one: &RawValue, other: &RawValue) -> Result<bool> {
    let value = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get());
    Ok(value(one)? == value(other)?)
}

/// What stands in hooks.d for a hook that every container has.
#[derive(Serialize)]
struct Definition<'a> {
    version: &'a str,
    hook: &'a Hook,
    when: When,
    stages: [&'a str; 1],
}

#[derive(Serialize)]
struct When {
    always: bool,
}

/// The file of hooks.d for a hook, by version 1.0.0 of oci-hooks(5).
pub fn definition(stage: Stage, hook: &Hook) -> Result<String> {
    let when = When { always: true };
    let stages = [stage.name()];
    let definition = Definition { version: "1.0.0", hook, when, stages };
    Ok(serde_json::to_string_pretty(&definition)? + "\n")
}

/// Whether a file of hooks.d is cilmark's.
pub fn is_definition(stage: Stage, text: &str) -> bool {
    let hook = Object::parse(text).and_then(|file| Ok(file.get("hook")?.map(ToOwned::to_owned)));
    let own = Hook::new("", stage, &[]);
    hook.is_ok_and(|hook| hook.is_some_and(|hook| own.replaces(&hook)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hooks(command: &str) -> [(Stage, Hook); 2] {
        let options = ["--bpffs".to_owned(), "/x".to_owned()];
        [Stage::CreateRuntime, Stage::Poststop].map(|it| (it, Hook::new(command, it, &options)))
    }

    fn added(config: &str) -> Value {
        let text = add(config, &hooks("/usr/bin/cilmark")).unwrap().expect("they are not there");
        serde_json::from_str(&text).unwrap()
    }

    fn own(stage: &str) -> Value {
        json!({"path": "/usr/bin/cilmark", "args": ["cilmark", "oci", stage, "--bpffs", "/x"], "timeout": 65})
    }

    #[test]
    fn they_come_behind_those_that_are_there() {
        let other =
            json!({"path": "/proc/7/exe", "args": ["libnetwork-setkey", "oci"], "env": ["A=B"]});
        let config =
            json!({"hooks": {"prestart": [other], "createRuntime": [other], "poststop": null}});
        let config = added(&config.to_string());
        assert_eq!(config["hooks"]["prestart"], json!([other]));
        assert_eq!(config["hooks"]["createRuntime"], json!([other, own("createRuntime")]));
        assert_eq!(config["hooks"]["poststop"], json!([own("poststop")]));
    }

    #[test]
    fn they_are_added_where_there_are_none() {
        for config in [r#"{"a": 1}"#, r#"{"a": 1, "hooks": null}"#, r#"{"hooks": {}, "a": 1}"#] {
            let expected =
                json!({"createRuntime": [own("createRuntime")], "poststop": [own("poststop")]});
            assert_eq!(added(config), json!({"a": 1, "hooks": expected}), "{config}");
        }
    }

    #[test]
    fn they_are_there_once_and_the_last_counts() {
        let old = add("{}", &hooks("/old/cilmark")).unwrap().unwrap();
        let new = added(&old);
        assert_eq!(new["hooks"]["createRuntime"], json!([own("createRuntime")]));
        assert_eq!(add(&new.to_string(), &hooks("/usr/bin/cilmark")).unwrap(), None);
    }

    #[test]
    fn what_can_not_be_understood_is_refused() {
        for config in [
            "",
            "[]",
            r#"{"hooks": []}"#,
            r#"{"hooks": {}, "hooks": {}}"#,
            r#"{"hooks": {"poststop": {}}}"#,
            r#"{"hooks": {"poststop": [], "poststop": []}}"#,
        ] {
            assert!(add(config, &hooks("/c")).is_err(), "{config}");
        }
    }

    #[test]
    fn a_definition_is_known_again() {
        let [(stage, hook), (other, _)] = hooks("/usr/bin/cilmark");
        let text = definition(stage, &hook).unwrap();
        assert!(is_definition(stage, &text) && !is_definition(other, &text));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["stages"], json!(["createRuntime"]));
        assert_eq!(
            (&value["version"], &value["when"]),
            (&json!("1.0.0"), &json!({"always": true}))
        );
        assert!(!is_definition(stage, "{}") && !is_definition(stage, "x"));
    }
}
