//! Makes Docker and Podman call cilmark, and takes that back.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{runtime, write};
use crate::model::oci::Stage;
use crate::model::oci::daemon::{self, Left, Runtime};
use crate::model::oci::hooks::{self, Hook};
use crate::ops::plugin;

/// What has come of it, a line each.
pub type Report = Vec<String>;

/// Docker, by its `daemon.json`.
pub struct Docker<'a> {
    /// That.
    pub file: &'a Path,
    /// The options of `cilmark oci runtime`.
    pub options: &'a [String],
    /// The real runtime, which has to be there.
    pub runtime: &'a OsStr,
    /// Containers have it that name no runtime.
    pub is_default: bool,
}

/// Where dockerd looks for its configuration.
pub const DAEMON_FOLDER: &str = "/etc/docker";

/// Where Podman and CRI-O look for hooks.
pub const HOOKS_FOLDER: &str = "/usr/share/containers/oci/hooks.d";

const RELOAD: &str = "next: systemctl reload docker";

/// At a reload Docker takes what is in the file, and keeps what is no longer in it.
const RESTART: &str = "next: systemctl restart docker";

impl Docker<'_> {
    /// Adds the runtime.
    pub fn install(&self) -> Result<Report> {
        let shown = self.file.display();
        runtime::find(self.runtime).with_context(|| format!("{shown}: nothing has changed"))?;
        let runtime = Runtime::new(&lasting_command()?, self.options)?;
        let text = read(self.file)?;
        let added = daemon::add(text.as_deref(), &runtime, self.is_default);
        let refused = || format!("{shown}: nothing has changed");
        let Some(added) = added.with_context(refused)? else {
            return Ok(vec![format!("{shown} names the runtime {} already", daemon::NAME)]);
        };
        write_with_folder(self.file, DAEMON_FOLDER, &added)?;
        let what = match self.is_default {
            true => "the runtime cilmark, for all containers that name no other",
            false => {
                "the runtime cilmark, for containers that name it: docker run --runtime cilmark"
            }
        };
        Ok(vec![
            format!("{shown} names {what}"),
            RELOAD.to_owned(),
            "containers that are there keep the runtime that they were made with".to_owned(),
        ])
    }

    /// Takes the runtime away.
    pub fn undo(&self) -> Result<Report> {
        let shown = self.file.display();
        let Some(text) = read(self.file)? else {
            return Ok(vec![format!("there is no {shown}")]);
        };
        let left =
            daemon::remove(&text).with_context(|| format!("{shown}: nothing has changed"))?;
        let what = match left {
            Left::Same => return Ok(vec![format!("{shown} does not name the runtime cilmark")]),
            Left::Text(text) => {
                write::write(self.file, &text)?;
                format!("{shown} does not name the runtime cilmark any more")
            }
            Left::Nothing => {
                fs::remove_file(self.file).with_context(|| format!("remove {shown}"))?;
                format!("removed {shown}, which said nothing else")
            }
        };
        let left = "containers that were made with it do not start without it; make them again";
        Ok(vec![what, RESTART.to_owned(), left.to_owned()])
    }
}

/// Podman, by its hooks, which CRI-O and others read, too.
pub struct Podman<'a> {
    /// Where it looks for them.
    pub folder: &'a Path,
    /// The options of a stage's command.
    pub options: &'a dyn Fn(Stage) -> Vec<String>,
}

const STAGES: [Stage; 2] = [Stage::CreateRuntime, Stage::Poststop];

impl Podman<'_> {
    /// Adds a file for each hook: all stages of one file have the same arguments.
    pub fn install(&self) -> Result<Report> {
        let command = lasting_command()?;
        let mut report = Vec::new();
        for (stage, path, text) in self.files()? {
            let hook = Hook::new(&command, stage, &(self.options)(stage));
            let wanted = hooks::definition(stage, &hook)?;
            match text == Some(wanted.clone()) {
                true => report.push(format!("{} is there already", path.display())),
                false => {
                    write_with_folder(&path, HOOKS_FOLDER, &wanted)?;
                    report
                        .push(format!("wrote {}, for all containers from now on", path.display()));
                }
            }
        }
        Ok(report)
    }

    /// Takes them away.
    pub fn undo(&self) -> Result<Report> {
        let mut report = Vec::new();
        for (_, path, text) in self.files()? {
            match text {
                None => report.push(format!("there is no {}", path.display())),
                Some(_) => {
                    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
                    report.push(format!("removed {}", path.display()));
                }
            }
        }
        Ok(report)
    }

    /// With what is in them. An error if one is somebody else's.
    fn files(&self) -> Result<Vec<(Stage, PathBuf, Option<String>)>> {
        let mut files = Vec::new();
        for stage in STAGES {
            let path = self.folder.join(format!("cilmark-{}.json", stage.name()));
            let text = read(&path)?;
            ensure!(
                text.as_ref().is_none_or(|text| hooks::is_definition(stage, text)),
                "{} is not cilmark's; nothing has changed",
                path.display()
            );
            files.push((stage, path, text));
        }
        Ok(files)
    }
}

/// The path of this command, which others are going to call for long.
fn lasting_command() -> Result<String> {
    let command = runtime::command()?;
    let path = Path::new(&command);
    let goes = ["/tmp", "/var/tmp", "/run", "/dev", "/proc"].iter().any(|it| path.starts_with(it))
        || path.starts_with(env::temp_dir())
        || path
            .parent()
            .is_some_and(|it| it.ends_with("target/debug") || it.ends_with("target/release"));
    ensure!(
        !goes,
        "this command is {command}, which may be gone when a container starts, and none would start then; copy it to \
         /usr/local/bin and call it there; nothing has changed"
    );
    plugin::check_is_roots(path).context("nothing has changed")?;
    Ok(command)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(format!("read {}", path.display())),
    }
}

/// Makes the folder if nobody has named it: a name may be misspelt.
fn write_with_folder(path: &Path, default: &str, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    if folder == Path::new(default) {
        fs::create_dir_all(folder).with_context(|| format!("make {default}"))?;
    }
    ensure!(
        folder.is_dir(),
        "there is no directory {}; make it, if that is where it looks; nothing has changed",
        folder.display()
    );
    write::write(path, text)
}
