//! The runtime that Docker runs in the place of runc: it does what belongs to cilmark, and becomes runc.
//!
//! A container is attached at its start. Docker up to 27 sets up the network in a hook of `create`, Docker from 28 on
//! between `create` and `start`, when no hook is called any more.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::json;

use super::{Moment, write};
use crate::model::oci::arguments::{self, Call};
use crate::model::oci::hooks::{self, Hook};
use crate::model::oci::{Stage, State};
use crate::model::text;
use crate::state::pin::Root;

/// What the wrapper is called with.
pub struct Wrapper<'a> {
    /// The pins.
    pub root: &'a Root,
    /// The file.
    pub file: &'a Path,
    /// The runtime that it becomes: a name, or a path.
    pub runtime: &'a OsStr,
    /// What that is called with.
    pub arguments: &'a [OsString],
}

/// Where a runtime may be that is not on `PATH`, as with services of systemd.
const ELSEWHERE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the runtime; `prepare` is called last. An error has changed nothing that starts the container.
pub fn run(wrapper: &Wrapper<'_>, prepare: impl FnOnce() -> Result<()>) -> Result<Infallible> {
    let arguments: Vec<String> =
        wrapper.arguments.iter().map(|it| text::from_bytes(it.as_bytes())).collect();
    let runtime = find(wrapper.runtime)?;
    let call = arguments::parse(&arguments)?;
    let done = wrapper.do_own(&runtime, &call).and_then(|()| prepare());
    if let (Err(error), Some(log)) = (&done, &call.json_log) {
        tell(log, &format!("cilmark: {error:#}"));
    }
    done?;
    let error = Command::new(&runtime).args(wrapper.arguments).exec();
    Err(anyhow!("run {}: {error}", runtime.display()))
}

impl Wrapper<'_> {
    fn do_own(&self, runtime: &Path, call: &Call) -> Result<()> {
        match call.command {
            Some(arguments::Command::Create) => self.add_hooks(call, &[Stage::Poststop]),
            Some(arguments::Command::Run) => {
                self.add_hooks(call, &[Stage::CreateRuntime, Stage::Poststop])
            }
            Some(arguments::Command::Start) => self.attach(runtime, call),
            None => Ok(()),
        }
    }

    fn add_hooks(&self, call: &Call, stages: &[Stage]) -> Result<()> {
        let bundle = PathBuf::from(os(call.bundle.as_deref().unwrap_or(".")));
        let path = bundle.join("config.json");
        let config =
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let command = command()?;
        let hooks: Result<Vec<_>> = stages
            .iter()
            .map(|stage| Ok((*stage, Hook::new(&command, *stage, &self.options(*stage)?))))
            .collect();
        let changed = hooks::add(&config, &hooks?).with_context(|| path.display().to_string())?;
        changed.map_or(Ok(()), |config| write::write(&path, &config))
    }

    /// The options of a hook that does what this command would.
    fn options(&self, stage: Stage) -> Result<Vec<String>> {
        let file = ["--file".to_owned(), utf8(self.file)?];
        let file = file.into_iter().filter(|_| stage == Stage::CreateRuntime);
        let root = ["--bpffs".to_owned(), utf8(self.root.path())?];
        Ok(root.into_iter().chain(file).collect())
    }

    fn attach(&self, runtime: &Path, call: &Call) -> Result<()> {
        // Whatever else is wrong, the runtime says itself.
        let Some(id) = &call.id else { return Ok(()) };
        let state = self.state(runtime, call, id)?;
        if matches!(state.status.as_str(), "running" | "paused" | "stopped") {
            return Ok(());
        }
        super::attach(self.root, self.file, &state, Moment::Start).map(drop)
    }

    fn state(&self, runtime: &Path, call: &Call, id: &str) -> Result<State> {
        let mut command = Command::new(runtime);
        command.args(&self.arguments[..call.globals]).arg("state").arg(os(id));
        let output = command.output();
        let output = output.with_context(|| format!("run {}", runtime.display()))?;
        ensure!(
            output.status.success(),
            "{} does not tell the state of {id}: {}",
            runtime.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        State::parse(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("{} state {id}", runtime.display()))
    }
}

/// The path of this command, for whoever is to call it later.
pub fn command() -> Result<String> {
    let path = env::current_exe().context("find the path of this command")?;
    // An update may have put another one into its place since it began.
    let text = utf8(&path)?;
    Ok(text.strip_suffix(" (deleted)").filter(|_| !path.exists()).unwrap_or(&text).to_owned())
}

/// Finds the runtime, which must not be this command.
pub fn find(runtime: &OsStr) -> Result<PathBuf> {
    let own = fs::metadata("/proc/self/exe").context("look at this command")?;
    let path = match runtime.as_bytes().contains(&b'/') {
        true => PathBuf::from(runtime),
        false => on_path(runtime)?,
    };
    let found = fs::metadata(&path).with_context(|| format!("runtime {}", path.display()))?;
    ensure!(
        (found.dev(), found.ino()) != (own.dev(), own.ino()),
        "runtime {} is cilmark itself; --runtime names the real one, such as runc",
        path.display()
    );
    Ok(path)
}

fn on_path(name: &OsStr) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(env::split_paths(ELSEWHERE));
    let is_program = |path: &PathBuf| {
        let file = fs::metadata(path);
        file.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let mut programs =
        folders.filter(|it| it.is_absolute()).map(|it| it.join(name)).filter(is_program);
    match programs.next() {
        Some(program) => Ok(program),
        None => bail!(
            "there is no runtime `{}` on PATH or in {ELSEWHERE}; --runtime names another one, or its path",
            name.display()
        ),
    }
}

/// containerd shows what the last line of its runtime's log says, and not what comes on stderr.
fn tell(log: &str, message: &str) {
    let line =
        json!({"level": "error", "msg": message, "time": jiff::Timestamp::now().to_string()});
    let file = OpenOptions::new().append(true).create(true).open(os(log));
    // It is on stderr, too.
    let _ = file.and_then(|mut file| writeln!(file, "{line}"));
}

fn os(argument: &str) -> OsString {
    use std::os::unix::ffi::OsStringExt;
    OsString::from_vec(text::to_bytes(argument))
}

fn utf8(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.with_context(|| format!("{} is no UTF-8, as JSON has it", path.display()))
}
