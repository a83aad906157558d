//! Docker's `daemon.json`, in which a runtime is named.

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::object::{Object, raw, raw_lines};

/// What the runtime is called.
pub const NAME: &str = "cilmark";

/// A runtime that Docker runs by its command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Runtime {
    path: String,
    runtime_args: Vec<String>,
}

/// How each call of the command begins that Docker makes.
const OWN: [&str; 2] = ["oci", "runtime"];

impl Runtime {
    /// By the path of the command, and its options. Docker before 23 writes them into a script, unquoted.
    pub fn new(path: &str, options: &[String]) -> Result<Runtime> {
        let own = OWN.map(str::to_owned).into_iter().chain(options.iter().cloned());
        let runtime_args: Vec<String> = own.chain(["--".to_owned()]).collect();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
        for argument in runtime_args.iter().map(String::as_str).chain([path]) {
            ensure!(
                argument.chars().all(is_plain),
                "`{argument}` has characters that Docker hands to a shell; take a path of letters, digits and ._-"
            );
        }
        Ok(Runtime { path: path.to_owned(), runtime_args })
    }

    /// One of this name, if it is cilmark's; an error if it is somebody else's.
    fn own(runtimes: &Object) -> Result<Option<Runtime>> {
        let Some(value) = runtimes.get(NAME)? else { return Ok(None) };
        let known: Option<Runtime> = serde_json::from_str(value.get()).ok();
        let own = known.filter(|known| known.runtime_args.starts_with(&OWN.map(str::to_owned)));
        own.map(Some).with_context(|| {
            format!("there is a runtime `{NAME}` already that is not this one's: {value}; take it away, or rename it")
        })
    }
}

/// Puts the runtime into a `daemon.json`, if there is one, and makes it the default, or no longer; `None` if that is so already.
pub fn add(text: Option<&str>, runtime: &Runtime, is_default: bool) -> Result<Option<String>> {
    let (mut file, indent) = parse(text)?;
    let mut runtimes = file.object("runtimes")?;
    let mut is_changed = false;
    if Runtime::own(&runtimes)?.as_ref() != Some(runtime) {
        runtimes.set(NAME, raw_lines(runtime, indent, 2)?);
        file.set("runtimes", runtimes.lines(indent, 1)?);
        is_changed = true;
    }
    match (default(&file)?, is_default) {
        (Some(NAME), true) | (None, false) => {}
        (Some(other), true) => bail!(
            "`default-runtime` is {other} already; take that away, and name it with --runtime if it is to run what cilmark \
             is called for; or let it be, by --not-default"
        ),
        (None, true) => {
            file.set("default-runtime", raw(&NAME)?);
            is_changed = true;
        }
        (Some(NAME), false) => {
            file.remove("default-runtime");
            is_changed = true;
        }
        (Some(_), false) => {}
    }
    is_changed.then(|| written(&file, indent)).transpose()
}

/// What is left of a `daemon.json` without the runtime.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// It was not in it.
    Same,
    /// This.
    Text(String),
    /// Nothing: the file says no more than none would.
    Nothing,
}

/// Takes the runtime out of a `daemon.json`.
pub fn remove(text: &str) -> Result<Left> {
    let (mut file, indent) = parse(Some(text))?;
    let mut runtimes = file.object("runtimes")?;
    let is_there = Runtime::own(&runtimes)?.is_some();
    let is_default = default(&file)? == Some(NAME);
    if !is_there && !is_default {
        return Ok(Left::Same);
    }
    runtimes.remove(NAME);
    match runtimes.is_empty() {
        true => file.remove("runtimes"),
        false => file.set("runtimes", runtimes.lines(indent, 1)?),
    }
    if is_default {
        file.remove("default-runtime");
    }
    match file.is_empty() {
        true => Ok(Left::Nothing),
        false => written(&file, indent).map(Left::Text),
    }
}

/// The file, and by how much its lines are indented. A file of blanks counts for none, as with Docker.
fn parse(text: Option<&str>) -> Result<(Object, &str)> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
        return Ok((Object::default(), "  "));
    };
    let behind = text.split_once('\n').map_or("", |(_, behind)| behind);
    let indent = &behind[..behind.len() - behind.trim_start_matches([' ', '\t']).len()];
    Ok((Object::parse(text)?, if indent.is_empty() { "  " } else { indent }))
}

fn default(file: &Object) -> Result<Option<&str>> {
    let value: Option<&RawValue> = file.get("default-runtime")?;
    let value = value.map(|value| serde_json::from_str(value.get())).transpose();
    value.context("`default-runtime` is no plain text")
}

fn written(file: &Object, indent: &str) -> Result<String> {
    Ok(format!("{}\n", file.lines(indent, 0)?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn runtime() -> Runtime {
        Runtime::new("/usr/bin/cilmark", &["--runtime".into(), "runc".into()]).unwrap()
    }

    fn own() -> Value {
        json!({"path": "/usr/bin/cilmark", "runtimeArgs": ["oci", "runtime", "--runtime", "runc", "--"]})
    }

    const FILE: &str = "{\n    \"bip\": \"172.31.0.1/16\",\n    \"runtimes\": {\n        \"kata\": {\n            \
                        \"path\": \"/usr/bin/kata\"\n        }\n    },\n    \"mtu\": 1450.0\n}\n";

    #[test]
    fn all_else_stays_and_comes_back_as_it_was() {
        for (is_default, default) in [(false, Value::Null), (true, json!("cilmark"))] {
            let text = add(Some(FILE), &runtime(), is_default).unwrap().unwrap();
            assert!(text.contains("1450.0") && text.starts_with("{\n    \"bip\""), "{text}");
            let file: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                file["runtimes"],
                json!({"kata": {"path": "/usr/bin/kata"}, "cilmark": own()})
            );
            assert_eq!(file["default-runtime"], default);
            assert_eq!(add(Some(&text), &runtime(), is_default).unwrap(), None, "twice");
            assert_eq!(remove(&text).unwrap(), Left::Text(FILE.to_owned()));
        }
        assert_eq!(remove(FILE).unwrap(), Left::Same);
    }

    #[test]
    fn a_file_that_it_made_has_nothing_left() {
        for none in [None, Some(""), Some(" \n"), Some("{}")] {
            let text = add(none, &runtime(), true).unwrap().unwrap();
            let file: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(file, json!({"runtimes": {"cilmark": own()}, "default-runtime": "cilmark"}));
            assert_eq!(remove(&text).unwrap(), Left::Nothing);
        }
    }

    #[test]
    fn an_older_one_is_replaced() {
        let old = Runtime::new("/opt/cilmark", &[]).unwrap();
        let old = add(None, &old, false).unwrap().unwrap();
        let new = add(Some(&old), &runtime(), false).unwrap();
        assert_eq!(new, add(None, &runtime(), false).unwrap());
    }

    #[test]
    fn what_is_somebody_elses_or_no_json_is_refused() {
        for (text, word) in [
            (r#"{"runtimes": {"cilmark": {"path": "/usr/bin/runc"}}}"#, "not this one's"),
            (
                r#"{"runtimes": {"cilmark": {"path": "/x", "runtimeArgs": ["--root"]}}}"#,
                "not this one's",
            ),
            (
                r#"{"runtimes": {"cilmark": {"runtimeType": "io.containerd.runc.v2"}}}"#,
                "not this one's",
            ),
            (r#"{"runtimes": []}"#, "`runtimes`"),
            (r#"{"runtimes": {}, "runtimes": {}}"#, "twice"),
            ("{\n# a comment\n}", "no JSON"),
        ] {
            let error = format!("{:#}", add(Some(text), &runtime(), false).unwrap_err());
            assert!(error.contains(word), "{error}");
            assert!(remove(text).is_err(), "{text}");
        }
        let error = add(Some(r#"{"default-runtime": "nvidia"}"#), &runtime(), true).unwrap_err();
        assert!(error.to_string().contains("nvidia") && error.to_string().contains("--runtime"));
        assert!(add(Some(r#"{"default-runtime": "nvidia"}"#), &runtime(), false).is_ok());
    }

    #[test]
    fn a_path_that_a_shell_would_take_apart_is_refused() {
        for path in ["/opt/my tools/cilmark", "/opt/$x/cilmark", "/opt/é"] {
            assert!(Runtime::new(path, &[]).is_err(), "{path}");
        }
    }
}
