//! Endpoints that come and go: through the library in this process, and through the binary.

use std::ffi::OsStr;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cilmark::kernel::hooks::HookKind;
use cilmark::model::endpoint::{EndpointId, Role};
use cilmark::model::enforcement::{Mode, Modes};
use cilmark::model::identity::Identity;
use cilmark::model::spec::{EndpointSpec, HookChoice, IdentityRef};
use cilmark::ops;
use cilmark::ops::attach::{self, Terms};
use cilmark::ops::detach;
use cilmark::program::load::Loaded;
use cilmark::state::pin::Root;
use cilmark::state::registry::Endpoint;

const IDENTITY: u32 = 1234;

/// What an endpoint is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Which of [`make_devices`].
    pub device: u32,
    /// TCX or clsact.
    pub kind: HookKind,
    /// Of both directions.
    pub mode: Mode,
}

impl Wanted {
    /// The name of its device.
    pub fn device_name(&self) -> String {
        format!("c{}", self.device)
    }

    fn spec(&self) -> EndpointSpec {
        EndpointSpec {
            role: Some(Role::Container),
            id: Some(IdentityRef::Number(Identity(IDENTITY))),
            ip: vec![std::net::IpAddr::from(self.address()).into()].into(),
            hook: match self.kind {
                HookKind::Tcx => HookChoice::Tcx,
                HookKind::Clsact => HookChoice::Clsact,
            },
            policy: Modes::both(self.mode),
            ..EndpointSpec::new(self.device_name())
        }
    }

    /// Its only address.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0000 + 256 + self.device)
    }
}

/// Makes devices `c0` to at least `c(count - 1)`: both ends of veth pairs, which stay down, so that
/// nothing else in the kernel has to do with them.
pub fn make_devices(count: u32) -> Result<()> {
    const QUEUES: &str = "numtxqueues 1 numrxqueues 1";
    let pairs = (0..count).step_by(2).map(|first| {
        let second = first + 1;
        format!("link add c{first} {QUEUES} type veth peer name c{second} {QUEUES}\n")
    });
    let batch: String = pairs.collect();
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    ip.stdin.take().context("a pipe to ip")?.write_all(batch.as_bytes())?;
    let status = ip.wait()?;
    ensure!(status.success(), "make {count} devices: {status}");
    Ok(())
}

/// Runs the binary, which must succeed.
pub fn cilmark<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cilmark"));
    let output = command.args(arguments).output().context("start cilmark")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, error.trim());
    Ok(())
}

/// Attaches or replaces by the binary, with these arguments beside those that every endpoint has.
pub fn attach_by_binary(wanted: &Wanted, more: &[&str]) -> Result<()> {
    let name = wanted.device_name();
    let always = [
        format!("--id={IDENTITY}"),
        format!("--ip={}", wanted.address()),
        format!("--hook={}", wanted.kind),
        format!("--policy={}", wanted.mode),
    ];
    let first = ["attach", &name, "--role=container"];
    cilmark(first.into_iter().chain(always.iter().map(String::as_str)).chain(more.iter().copied()))
}

/// Attaches in this process, as the command does, under the lowest free number.
pub fn attach_here(root: &Root, wanted: &Wanted) -> Result<(EndpointId, Loaded)> {
    let _lock = ops::prepare(root, false)?;
    let report = attach::attach(root, &wanted.spec(), &Terms::default())?;
    Ok((report.plan.resolved.id, report.loaded))
}

/// Replaces in this process what [`attach_here`] has attached.
pub fn replace_here(root: &Root, wanted: &Wanted) -> Result<Loaded> {
    let _lock = ops::prepare(root, false)?;
    Ok(attach::attach(root, &wanted.spec(), &Terms::default())?.loaded)
}

/// Detaches in this process.
pub fn detach_here(root: &Root, id: EndpointId) -> Result<()> {
    let _lock = ops::prepare(root, false)?;
    detach::detach(root, &Endpoint::read(root, id)?)
}
