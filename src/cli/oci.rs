//! `cilmark oci`: hooks and a runtime for Docker, Podman and other runtimes of the Open Container Initiative.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Context, file, path_of};
use crate::model::file::DEFAULT_FILE;
use crate::model::oci::{Stage, State};
use crate::model::text;
use crate::ops::oci::install::{Docker, Podman, Report};
use crate::ops::oci::runtime::{self, Wrapper};
use crate::ops::oci::{self, Moment};
use crate::output;

#[derive(clap::Subcommand)]
pub enum Command {
    /// The hook createRuntime: gives a container its identity; the container's state is on stdin
    #[command(name = "createRuntime")]
    CreateRuntime(File),
    /// The hook poststop: takes the programs off again; the container's state is on stdin
    Poststop,
    /// A runtime in the place of runc, for Docker: gives containers their identity, and runs runc
    Runtime(Runtime),
    /// Make Docker or Podman call this command for each container, or no longer
    Install(Install),
}

#[derive(clap::Args)]
pub struct File {
    /// The file whose endpoints and [births] count for what a container does not say; it need not be there
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    file: PathBuf,
}

#[derive(clap::Args)]
pub struct Runtime {
    /// The real runtime: a name to look for on PATH and in the usual places, or a path
    #[arg(long, value_name = "NAME|PATH", default_value = "runc")]
    runtime: String,
    #[command(flatten)]
    file: File,
    /// What the real runtime is called with
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["docker", "podman"]))]
pub struct Install {
    /// Make `cilmark` the runtime of Docker's containers, in its daemon.json
    #[arg(long)]
    docker: bool,
    /// Put hooks into the directory in which Podman and CRI-O look for them
    #[arg(long)]
    podman: bool,
    /// Take that back
    #[arg(long)]
    undo: bool,
    /// With --docker: only for containers that name it (`docker run --runtime cilmark`); labels of others count for nothing
    #[arg(long, conflicts_with_all = ["podman", "undo"])]
    not_default: bool,
    /// With --docker: the real runtime
    #[arg(long, value_name = "NAME|PATH", default_value = "runc", conflicts_with_all = ["podman", "undo"])]
    runtime: String,
    /// Another file than /etc/cilmark/cilmark.toml, in which endpoints and [births] stand
    #[arg(long, value_name = "FILE", conflicts_with = "undo")]
    file: Option<PathBuf>,
    /// With --docker: its configuration
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/docker/daemon.json",
        conflicts_with = "podman"
    )]
    daemon_json: PathBuf,
    /// With --podman: the directory
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/usr/share/containers/oci/hooks.d",
        conflicts_with = "docker"
    )]
    hooks_dir: PathBuf,
}

pub fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::CreateRuntime(File { file }) => {
            let state = state()?;
            oci::attach(&context.root, &path_of(file), &state, Moment::CreateRuntime).map(drop)
        }
        Command::Poststop => oci::end(&context.root, &state()?),
        Command::Runtime(args) => {
            let os = |text: &String| OsString::from_vec(text::to_bytes(text));
            let arguments: Vec<OsString> = args.arguments.iter().map(os).collect();
            let wrapper = Wrapper {
                root: &context.root,
                file: &path_of(args.file.file),
                runtime: &os(&args.runtime),
                arguments: &arguments,
            };
            runtime::run(&wrapper, || context.descriptors.restore()).map(|never| match never {})
        }
        Command::Install(args) => {
            for line in args.run(context)? {
                output::note(&line);
            }
            Ok(())
        }
    }
}

fn state() -> Result<State> {
    State::parse(&file::read(Path::new(OsStr::new("-")))?)
}

impl Install {
    fn run(self, context: &Context) -> Result<Report> {
        let file = self.file.map(path_of).map(std::path::absolute).transpose()?;
        let file = file.map(|file| ["--file".to_owned(), file.display().to_string()]);
        let root = ["--bpffs".to_owned(), context.root.path().display().to_string()];
        if self.docker {
            let real = OsString::from_vec(text::to_bytes(&self.runtime));
            let runtime = ["--runtime".to_owned(), self.runtime];
            let options =
                [&root[..], file.as_ref().map_or(&[], |file| &file[..]), &runtime].concat();
            let file = &path_of(self.daemon_json);
            let is_default = !self.not_default;
            let docker = Docker { file, options: &options, runtime: &real, is_default };
            return if self.undo { docker.undo() } else { docker.install() };
        }
        let folder = &path_of(self.hooks_dir);
        let options = |stage| {
            let file = file.iter().filter(|_| stage == Stage::CreateRuntime).flatten();
            root.iter().chain(file).cloned().collect()
        };
        let podman = Podman { folder, options: &options };
        if self.undo { podman.undo() } else { podman.install() }
    }
}
