//! The files: reading them, and what is kept beside them of what was last confirmed.
//!
//! `NAME.confirmed` has the files as they were confirmed last, with those that they load; `NAME.trial` those of an apply
//! under `--confirm`. As long as that is there a boot takes the former. Of a directory they lie in it, as `cilmark.…`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use log::warn;
use serde::{Deserialize, Serialize};

use crate::kernel::sys;
use crate::model::file::{Documents, Source, Wanted};
use crate::model::identity::Names;

/// The texts of files that add up, and of those that they load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// What is called `*.toml`: name, text.
    files: Vec<(String, String)>,
    /// Lines of the ipcache: name, text.
    lines: Vec<(String, String)>,
}

impl Files {
    /// Reads a file, or all `*.toml` of a directory; `has_lines`: with what they load.
    pub fn read(path: &Path, has_lines: bool) -> Result<Files> {
        let mut files = Vec::new();
        for path in paths(path)? {
            let text = read(&path)?;
            files.push((path.display().to_string(), text));
        }
        match has_lines {
            true => Files::with_lines(files),
            false => Ok(Files { files, lines: Vec::new() }),
        }
    }

    /// A file whose text somebody has.
    pub fn of_text(name: &str, text: String) -> Result<Files> {
        Files::with_lines(vec![(name.to_owned(), text)])
    }

    fn with_lines(files: Vec<(String, String)>) -> Result<Files> {
        let mut read_lines = Files { files, lines: Vec::new() };
        for located in &read_lines.documents()?.ipcache_files {
            let beside = Path::new(&*located.place.file).parent();
            let file = beside.unwrap_or(Path::new("")).join(&located.value);
            let text = read(&file).with_context(|| located.place.to_string())?;
            read_lines.lines.push((file.display().to_string(), text));
        }
        Ok(read_lines)
    }

    /// What they ask for.
    pub fn wanted(&self, names: &Names) -> Result<Wanted> {
        Wanted::of(&self.documents()?, names, &self.lines)
    }

    fn documents(&self) -> Result<Documents> {
        let source =
            |(name, text): &(String, String)| Source { name: name.clone(), text: text.clone() };
        Documents::parse(&self.files.iter().map(source).collect::<Vec<_>>())
    }
}

/// What a file asks for now, but for the lines that it loads: what it says, or, while it can't be read or has gone back, what
/// was confirmed last. `None` if it is not there.
pub fn in_force(path: &Path, names: &Names) -> Result<Option<Wanted>> {
    if !path.try_exists().with_context(|| format!("look for {}", path.display()))? {
        return Ok(None);
    }
    let beside = Beside::of(path);
    let read = || -> Result<Wanted> {
        ensure!(
            !matches!(beside.standing()?, Standing::Over),
            "{} was applied with --confirm last, and nobody has confirmed it: apply it again",
            path.display()
        );
        Files::read(path, false)?.wanted(names)
    };
    let error = match read() {
        Ok(wanted) => return Ok(Some(wanted)),
        Err(error) => error,
    };
    match beside.confirmed()? {
        Some(confirmed) => {
            warn!("what was confirmed last counts, since the file can't: {error:#}");
            confirmed.wanted(names).map(Some)
        }
        None => Err(error),
    }
}

/// The devices that files name, and whether these say that they are NICs, as far as they can be read at all.
pub fn devices_named(path: &Path) -> Vec<(String, bool)> {
    let texts = paths(path).unwrap_or_default().into_iter().filter_map(|path| fs::read(path).ok());
    texts.flat_map(|text| Documents::devices_of_ruin(&String::from_utf8_lossy(&text))).collect()
}

fn paths(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = || format!("read the directory {}", path.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if path.extension().is_some_and(|extension| extension == "toml") && !is_hidden {
            paths.push(path);
        }
    }
    ensure!(!paths.is_empty(), "{} has no file that is called *.toml", path.display());
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    String::from_utf8(text).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        anyhow::anyhow!("{}:{line}: this is no UTF-8", path.display())
    })
}

/// What an apply changes that has a clock.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Concerned {
    /// Devices of endpoints.
    pub devices: Vec<String>,
    /// Identities that have rules.
    pub identities: Vec<u32>,
}

/// An apply that nobody has confirmed yet.
#[derive(Serialize, Deserialize)]
struct Trial {
    files: Files,
    concerned: Concerned,
    /// Of the kernel that runs: a reboot ends it.
    boot: String,
    /// Until when somebody has to confirm it, in ns of the coarse monotonic clock.
    until_ns: u64,
    /// It has gone back.
    is_over: bool,
}

/// What lies beside the files.
pub struct Beside {
    /// `None` for what nothing lies beside, such as stdin.
    path: Option<PathBuf>,
}

/// How the last apply stands.
pub enum Standing {
    /// There is none that waits.
    Settled,
    /// It waits to be confirmed, for so long.
    Waits(Duration),
    /// Nobody has confirmed it in time, or before the machine went down.
    Over,
}

impl Beside {
    /// Of a file or directory.
    pub fn of(path: &Path) -> Beside {
        // A file that is gone has what was confirmed still.
        let is_special = path.as_os_str() == "-" || path.exists() && !path.is_file();
        // By whatever links somebody has come.
        let file = || {
            let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            (!is_special).then_some(real)
        };
        Beside { path: if path.is_dir() { Some(path.join("cilmark")) } else { file() } }
    }

    /// What was confirmed last.
    pub fn confirmed(&self) -> Result<Option<Files>> {
        self.read("confirmed")
    }

    /// These count for good.
    pub fn keep(&self, files: &Files) -> Result<()> {
        if self.path.is_none() {
            return Ok(());
        }
        if self.confirmed().ok().flatten().as_ref() != Some(files) {
            self.write("confirmed", files)?;
        }
        self.remove_trial()
    }

    /// These are on trial until a moment of the coarse monotonic clock (ns), as soon as they are in force: nobody waits for
    /// what a killed command has left.
    pub fn try_out(
        &self,
        files: &Files,
        concerned: &Concerned,
        until_ns: u64,
        are_in_force: bool,
    ) -> Result<()> {
        let (files, concerned) = (files.clone(), concerned.clone());
        let is_over = !are_in_force;
        self.write("trial", &Trial { files, concerned, boot: boot()?, until_ns, is_over })
    }

    /// How the trial stands.
    pub fn standing(&self) -> Result<Standing> {
        Ok(match self.read::<Trial>("trial")? {
            None => Standing::Settled,
            Some(trial) if trial.is_over || trial.boot != boot()? => Standing::Over,
            // Who was to put it back may have been killed.
            Some(trial) => match trial.until_ns.saturating_sub(sys::coarse_ns()) {
                0 => Standing::Over,
                left => Standing::Waits(Duration::from_nanos(left)),
            },
        })
    }

    /// Whose clocks run for the trial.
    pub fn concerned(&self) -> Result<Concerned> {
        Ok(self.read::<Trial>("trial")?.map(|trial| trial.concerned).unwrap_or_default())
    }

    /// What is on trial counts for good.
    pub fn confirm(&self) -> Result<()> {
        let trial: Trial = self.read("trial")?.context("nothing is on trial")?;
        self.keep(&trial.files)
    }

    /// The trial that was until then is over; false if nobody waits for it any more.
    pub fn end_trial(&self, until_ns: u64) -> Result<bool> {
        match self.read::<Trial>("trial")? {
            Some(trial) if trial.until_ns == until_ns && !trial.is_over => {
                self.write("trial", &Trial { is_over: true, ..trial })?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Nothing is on trial any more.
    pub fn remove_trial(&self) -> Result<()> {
        let Some(path) = self.beside("trial") else { return Ok(()) };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn beside(&self, suffix: &str) -> Option<PathBuf> {
        let mut name = OsString::from(self.path.as_ref()?);
        name.push(".");
        name.push(suffix);
        Some(name.into())
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, suffix: &str) -> Result<Option<T>> {
        let Some(path) = self.beside(suffix) else { return Ok(None) };
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("read {}", path.display()))?,
        };
        let value = serde_json::from_slice(&text);
        value
            .map(Some)
            .with_context(|| format!("{} is not as cilmark writes it; remove it", path.display()))
    }

    /// All of it or nothing, also if the machine goes down.
    fn write(&self, suffix: &str, value: &impl Serialize) -> Result<()> {
        let paths = self.beside(suffix).zip(self.beside(&format!("{suffix}.new")));
        let (path, new) = paths.context("it is no file, beside which anything could be kept")?;
        let write = || -> Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(value)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            Ok(File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?)
        };
        write().with_context(|| format!("write {}", path.display()))
    }
}

/// Which start of the kernel this is.
fn boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).with_context(|| format!("read {path}"))?.trim().to_owned())
}
