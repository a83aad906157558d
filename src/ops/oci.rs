//! Containers of OCI runtimes: they get their identity when their network is there and nobody runs in them yet, and lose it
//! when they are deleted.

mod image;
pub mod install;
pub mod runtime;
mod write;

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::model::birth::Hook;
use crate::model::oci::State;
use crate::model::oci::bundle::Bundle;
use crate::model::oci::docker::Container;
use crate::model::oci::image::{Keys, check, own};
use crate::model::owner::Owner;
use crate::model::wish::Said;
use crate::ops::birth::{self, Attached, Birth, End, Network};
use crate::ops::workload::Namespace;
use crate::state::pin::Root;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The hook createRuntime. With a user namespace the network may come behind it.
    CreateRuntime,
    /// The last before the container's own process runs.
    Start,
}

/// Attaches the devices of a container that is about to start.
pub fn attach(root: &Root, file: &Path, state: &State, moment: Moment) -> Result<Vec<Attached>> {
    attach_it(root, file, state, moment).with_context(|| format!("container {}", state.id))
}

fn attach_it(root: &Root, file: &Path, state: &State, moment: Moment) -> Result<Vec<Attached>> {
    let of_annotations = state.said()?;
    let path = Path::new(&state.bundle).join("config.json");
    let read = fs::read_to_string(&path).map_err(Into::into).and_then(|text| Bundle::parse(&text));
    let bundle = read.with_context(|| format!("read {}", path.display()))?;
    if let Some(annotations) = has_own(state.annotations.as_ref()) {
        let of_image = image::annotations(Path::new(&state.bundle), &bundle, &state.id);
        let checked = of_image.and_then(|all| all.iter().try_for_each(|it| check(annotations, it)));
        checked.context("annotation")?;
    }
    let docker = docker(&bundle, &state.id)?;
    let of_labels = docker.as_ref().map(Container::said).transpose()?.flatten();
    if is_rootless()? {
        ensure!(
            of_annotations.is_none() && of_labels.is_none(),
            "it is to have an identity, and its runtime is no root of this host; start it as root"
        );
        return Ok(Vec::new());
    }
    let said: Vec<Said> = of_annotations.into_iter().chain(of_labels).collect();
    let network = Network::of(
        &namespace(state, &bundle, moment)?,
        moment == Moment::CreateRuntime && bundle.network_may_come_later(),
    )?;
    let birth = Birth {
        hook: Hook::Oci,
        runtime: docker.map_or(state.manager(), |_| "docker").to_owned(),
        owner: owner(state)?,
        network: None,
        bundle: bundle_path(state),
        said,
        options: None,
        file,
    };
    birth::attach(&root.with_patience(birth::PATIENCE), &birth, network)
}

/// Takes off what a container had, which may be gone already.
pub fn end(root: &Root, state: &State) -> Result<()> {
    // Nobody of another name has been attached.
    let Ok(owner) = owner(state) else { return Ok(()) };
    if is_rootless()? {
        return Ok(());
    }
    let bundle = bundle_path(state);
    let end = End { owner: &owner, hook: Hook::Oci, ifname: None, bundle: bundle.as_deref() };
    let ended = birth::end(&root.with_patience(birth::PATIENCE), &end);
    ended.with_context(|| format!("container {}", state.id))
}

fn owner(state: &State) -> Result<Owner> {
    Owner::try_from(state.id.clone())
}

/// The same by whatever link it is named.
fn bundle_path(state: &State) -> Option<String> {
    let path = Path::new(&state.bundle);
    let path = fs::canonicalize(path).unwrap_or(path.to_owned());
    path.to_str().filter(|path| !path.is_empty()).map(str::to_owned)
}

/// A path such as `/proc/PID/ns/net` may lead elsewhere by now if it was to be joined when the container was created; while
/// that is created, its process may be one of the runtime's yet.
fn namespace(state: &State, bundle: &Bundle, moment: Moment) -> Result<Namespace> {
    let of_process = state.pid.filter(|pid| *pid != 0).map(Namespace::Of);
    let named = bundle.network_path().map(|path| Namespace::At(path.to_owned()));
    let found = match moment {
        Moment::CreateRuntime => named.or(of_process),
        Moment::Start => of_process.or(named),
    };
    found.context(
        "its state tells neither its process nor its network namespace; only createRuntime and what comes behind it can attach \
         it",
    )
}

/// What Docker keeps of the container, if it is Docker's. Its directory is not known, but what is in a container that is
/// Docker's comes from there.
fn docker(bundle: &Bundle, id: &str) -> Result<Option<Container>> {
    // Else it would name a file elsewhere.
    if id.contains('/') || id.starts_with('.') {
        return Ok(None);
    }
    for data in bundle.docker_data() {
        let path = data.join("containers").join(id).join("config.v2.json");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let container =
                    Container::parse(&text).with_context(|| path.display().to_string())?;
                if let Some(labels) = has_own(container.labels()) {
                    let of_image = image::labels(&data, &container);
                    let checked = of_image.and_then(|of_image| check(labels, &of_image));
                    checked.context("label")?;
                }
                return Ok(Some(container));
            }
            Err(error) if is_missing(&error) => {}
            // Docker's data by default is root's, and so nothing of this container.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_rootless()? => {}
            Err(error) => return Err(error).context(format!("read {}", path.display())),
        }
    }
    Ok(None)
}

fn has_own(keys: Option<&Keys>) -> Option<&Keys> {
    keys.filter(|keys| own(keys).next().is_some())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether this is the root of a user namespace, as with a runtime that somebody runs who is not root: it can attach nothing,
/// and has no veth of this host.
fn is_rootless() -> Result<bool> {
    let path = "/proc/self/uid_map";
    let map = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(map.split_whitespace().ne(["0", "0", "4294967295"]))
}
