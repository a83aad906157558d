//! The arguments of an OCI runtime's command line, as runc reads them; crun, youki and runsc read most of them the same.
//!
//! runc: `runc [global options] COMMAND [options] ID`, by urfave/cli, hence by Go's `flag`: one dash or two, `-x V` or
//! `-x=V`, the last counts. Its options may stand behind the ID, until `--`.

use anyhow::{Result, bail};

/// What a runtime is asked to do with a container, as far as it concerns the container's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Makes its namespaces; it waits for its start.
    Create,
    /// Makes and starts it at once: `run`, and `restore` from a checkpoint.
    Run,
    /// Starts what was created.
    Start,
}

/// What was found in the arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct Call {
    /// The command, if it is one of these.
    pub command: Option<Command>,
    /// How many arguments stand before it.
    pub globals: usize,
    /// The bundle, if one is named.
    pub bundle: Option<String>,
    /// The container.
    pub id: Option<String>,
    /// The file that errors are logged to in JSON, if there is one.
    pub json_log: Option<String>,
}

/// Options that stand before the command and have a value, of runc, crun and youki.
const GLOBALS: &[&str] =
    &["log", "log-format", "log-level", "root", "criu", "rootless", "cgroup-manager"];

/// Those that have none.
const GLOBAL_SWITCHES: &[&str] = &["debug", "systemd-cgroup", "help", "h", "version", "v", "V"];

/// Options of `create`, `run` and `restore` that have a value.
const OPTIONS: &[&str] = &[
    "bundle",
    "b",
    "console-socket",
    "pid-file",
    "pidfd-socket",
    "preserve-fds",
    // Of restore.
    "image-path",
    "work-path",
    "manage-cgroups-mode",
    "empty-ns",
    "lsm-profile",
    "lsm-mount-context",
    // Of crun.
    "config",
    "f",
];

/// What runtimes are asked to do.
const COMMANDS: &[&str] = &[
    "checkpoint",
    "create",
    "delete",
    "events",
    "exec",
    "features",
    "help",
    "init",
    "kill",
    "list",
    "pause",
    "ps",
    "restore",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
];

/// Reads the arguments without the program's name.
pub fn parse(arguments: &[String]) -> Result<Call> {
    let (mut log, mut is_json) = (None, false);
    let mut at = 0;
    while let Some(argument) = arguments.get(at) {
        let Some((name, value)) = option(argument) else { break };
        at += 1;
        if name.is_empty() {
            break;
        }
        let next = arguments.get(at).map(String::as_str);
        let takes_next = value.is_none() && (GLOBALS.contains(&name) || takes(name, next));
        let value = value.or(next.filter(|_| takes_next));
        at += usize::from(takes_next);
        match name {
            "log" => log = value.map(str::to_owned),
            "log-format" => is_json = value == Some("json"),
            _ => {}
        }
    }
    let command = arguments.get(at).and_then(|command| match command.as_str() {
        "create" => Some(Command::Create),
        "run" | "restore" => Some(Command::Run),
        "start" => Some(Command::Start),
        _ => None,
    });
    let globals = at.min(arguments.len());
    let json_log = log.filter(|_| is_json);
    let mut call = Call { command, globals, bundle: None, id: None, json_log };
    if command.is_some() {
        call.read_options(&arguments[at + 1..])?;
    }
    Ok(call)
}

impl Call {
    fn read_options(&mut self, arguments: &[String]) -> Result<()> {
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let Some((name, value)) = option(argument) else {
                self.id.get_or_insert(argument.clone());
                continue;
            };
            if name.is_empty() {
                self.id = self.id.take().or(arguments.next().cloned());
                break;
            }
            let value = match value {
                None if OPTIONS.contains(&name) => arguments.next().map(String::as_str),
                value => value,
            };
            match (name, value) {
                ("bundle" | "b", Some(bundle)) => self.bundle = Some(bundle.to_owned()),
                ("config" | "f", Some(config)) if self.command != Some(Command::Start) => bail!(
                    "the container's configuration is to be {config}, and not its bundle's config.json; leave --config out"
                ),
                // As getopt has it, for crun and youki.
                (glued, None) if glued.starts_with('b') && argument.starts_with("-b") => {
                    self.bundle = Some(glued[1..].to_owned());
                }
                _ => {}
            }
        }
        self.bundle = self.bundle.take().filter(|bundle| !bundle.is_empty());
        Ok(())
    }
}

/// An option's name without dashes, and the value behind `=`. The name of `--` is empty.
fn option(argument: &str) -> Option<(&str, Option<&str>)> {
    let name = argument.strip_prefix('-').filter(|name| !name.is_empty())?;
    let name = name.strip_prefix('-').unwrap_or(name);
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

/// Whether the argument behind an option that nobody here knows is its value: not if that is an option or a command.
fn takes(name: &str, next: Option<&str>) -> bool {
    let is_something = |next: &str| option(next).is_some() || COMMANDS.contains(&next);
    !GLOBAL_SWITCHES.contains(&name) && next.is_some_and(|next| !is_something(next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(line: &str) -> Result<Call> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_its_bundle_and_its_id_are_found() {
        use Command::{Create, Run, Start};
        for (line, command, bundle, id) in [
            ("create --bundle /b c1", Some(Create), Some("/b"), Some("c1")),
            ("create --bundle=/b c1", Some(Create), Some("/b"), Some("c1")),
            ("create -b /b c1", Some(Create), Some("/b"), Some("c1")),
            ("create -b=/b c1", Some(Create), Some("/b"), Some("c1")),
            ("create -bundle /b c1", Some(Create), Some("/b"), Some("c1")),
            ("create -b/b c1", Some(Create), Some("/b"), Some("c1")),
            ("create c1", Some(Create), None, Some("c1")),
            ("create --bundle= c1", Some(Create), None, Some("c1")),
            ("create c1 --bundle /b", Some(Create), Some("/b"), Some("c1")),
            ("create --bundle /a --bundle /b c1", Some(Create), Some("/b"), Some("c1")),
            ("create --bundle /b -- c1", Some(Create), Some("/b"), Some("c1")),
            ("create -- c1 --bundle /b", Some(Create), None, Some("c1")),
            ("create --pid-file --bundle c1", Some(Create), None, Some("c1")),
            (
                "create --no-pivot --pid-file /p --bundle /b c1",
                Some(Create),
                Some("/b"),
                Some("c1"),
            ),
            (
                "create --console-socket /s --preserve-fds 3 --no-new-keyring c1",
                Some(Create),
                None,
                Some("c1"),
            ),
            (
                "--root /run/r --log /l --log-format json --systemd-cgroup create --bundle ../b c1",
                Some(Create),
                Some("../b"),
                Some("c1"),
            ),
            ("--root=/run/r --debug run -d -b /b c1", Some(Run), Some("/b"), Some("c1")),
            ("--root create run c1", Some(Run), None, Some("c1")),
            ("--platform=ptrace --unknown create c1", Some(Create), None, Some("c1")),
            ("--unknown value create c1", Some(Create), None, Some("c1")),
            ("--unknown --debug create c1", Some(Create), None, Some("c1")),
            ("-- create c1", Some(Create), None, Some("c1")),
            ("restore --image-path /i --bundle /b c1", Some(Run), Some("/b"), Some("c1")),
            ("start c1", Some(Start), None, Some("c1")),
            ("state create", None, None, None),
            ("delete --force run", None, None, None),
            ("exec c1 create --bundle /b", None, None, None),
            ("--version", None, None, None),
            ("--root /run/r features", None, None, None),
            ("", None, None, None),
            ("--root", None, None, None),
            ("create", Some(Create), None, None),
            ("create --bundle", Some(Create), None, None),
        ] {
            let call = parsed(line).unwrap();
            let found = (call.command, call.bundle.as_deref(), call.id.as_deref());
            assert_eq!(found, (command, bundle, id), "{line}");
        }
    }

    #[test]
    fn a_log_is_in_json_only_if_that_is_said() {
        let log = |line| parsed(line).unwrap().json_log;
        assert_eq!(log("--log /l --log-format json start c").as_deref(), Some("/l"));
        assert_eq!(log("--log-format=json --log=/l start c").as_deref(), Some("/l"));
        assert_eq!(log("--log /l --log-format text start c"), None);
        assert_eq!(log("--log /l start c --log-format json"), None);
        assert_eq!(log("--log-format json start c"), None);
    }

    #[test]
    fn another_configuration_than_the_bundles_is_refused() {
        for line in ["create --config /c c1", "run -f /c c1", "create --config=/c c1"] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains("/c") && error.contains("--config"), "{error}");
        }
        assert!(parsed("exec --config /c").is_ok());
    }

    proptest! {
        /// Whatever is written around them, in whatever order.
        #[test]
        fn they_are_found_among_all_others(
            globals in proptest::sample::subsequence(
                vec!["--root=/r", "--root /r", "--log create", "--debug", "--log-format json", "-root run", "--rootless auto"],
                0..7,
            ),
            before in proptest::sample::subsequence(
                vec!["--pid-file -b", "--no-pivot", "--console-socket=/s", "--preserve-fds 3", "--detach"],
                0..5,
            ),
            bundle in proptest::sample::select(vec!["--bundle /b", "-b /b", "--bundle=/b", "-bundle=/b", "-b=/b"]),
            is_behind: bool,
            verb in proptest::sample::select(vec!["create", "run", "restore"]),
        ) {
            let (globals, before) = (globals.join(" "), before.join(" "));
            let line = match is_behind {
                true => format!("{globals} {verb} {before} c1 {bundle}"),
                false => format!("{globals} {verb} {bundle} {before} c1"),
            };
            let call = parsed(&line).unwrap();
            prop_assert_eq!(call.command.is_some(), true);
            prop_assert_eq!(call.globals, globals.split_whitespace().count());
            prop_assert_eq!((call.bundle.as_deref(), call.id.as_deref()), (Some("/b"), Some("c1")));
        }

        /// What is not understood is the runtime's to refuse.
        #[test]
        fn nothing_makes_it_fall(arguments in proptest::collection::vec("-{0,3}[a-z=]{0,8}", 0..8)) {
            let _ = parse(&arguments);
        }
    }
}
