//! `cilmark doctor`: each kind of trouble is set up for real, found, and cured as it says.

mod devices;
mod endpoints;
mod first;
mod healthy;
mod hooks;
mod kernel;
mod maps;
mod marks;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::World;

/// What `cilmark doctor` has found.
pub struct Findings {
    /// Of the command: 1 if there is a problem.
    pub status: Option<i32>,
    all: Vec<Value>,
}

/// Runs `cilmark doctor --json`.
pub fn doctor(world: &World) -> Findings {
    doctor_as(world, "")
}

/// The same with other arguments before, such as `--netns red`.
pub fn doctor_as(world: &World, arguments: &str) -> Findings {
    let run = world.cilmark(&format!("{arguments} doctor --json"));
    Findings::read(run.status, &run.stdout)
}

/// A veth with these arguments of `cilmark attach`, the first of which is its name.
pub fn attached(arguments: &str) -> Option<World> {
    let world = World::new()?;
    let (device, _) = arguments.split_once(' ').unwrap_or((arguments, ""));
    world.veth(device);
    world.cilmark_ok(&format!("attach {arguments}"));
    Some(world)
}

impl Findings {
    /// Of what a command has printed. The page has each check that comes.
    pub fn read(status: Option<i32>, stdout: &str) -> Findings {
        let all = serde_json::from_str(stdout);
        let found =
            Findings { status, all: all.unwrap_or_else(|error| panic!("{error} in {stdout}")) };
        let lines = include_str!("../../docs/doctor.md").lines();
        let documented = lines.filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: BTreeSet<&str> = documented.collect();
        let missing: Vec<&str> = found.checks().difference(&documented).copied().collect();
        assert_eq!(missing, [""; 0], "not in docs/doctor.md");
        found
    }

    /// Those of a check, each as `level of: says; cure`.
    pub fn of(&self, check: &str) -> Vec<String> {
        self.all.iter().filter(|it| it["check"] == check).map(line).collect()
    }

    /// Those that are not `ok`.
    pub fn bad(&self) -> Vec<String> {
        self.all.iter().filter(|it| it["level"] != "ok").map(line).collect()
    }

    /// The checks that have a finding.
    pub fn checks(&self) -> BTreeSet<&str> {
        self.all.iter().filter_map(|it| it["check"].as_str()).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The one finding of a check must have this level and say each of `words`, in its cure or before; what it is.
    pub fn has(&self, check: &str, level: &str, words: &[&str]) -> String {
        let found = self.of(check);
        let [one] = &found[..] else { panic!("{check}: {found:#?}, all: {:#?}", self.all) };
        assert!(one.starts_with(level), "{one}");
        for word in words {
            assert!(one.contains(word), "no `{word}` in: {one}");
        }
        one.clone()
    }

    /// All findings of a check must be `ok`, and there must be one.
    pub fn is_fine(&self, check: &str) {
        let found = self.of(check);
        assert!(!found.is_empty() && found.iter().all(|it| it.starts_with("ok ")), "{found:#?}");
    }
}

fn line(finding: &Value) -> String {
    let text = |field: &str| finding[field].as_str().unwrap_or_default();
    let [level, of, says, cure] = ["level", "of", "says", "cure"].map(text);
    format!("{level} {of}: {says}; {cure}")
}
