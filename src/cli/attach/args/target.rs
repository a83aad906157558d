//! DEV, or the workload that it is to be found for.

use anyhow::Result;
use clap::ArgGroup;

use crate::ops::workload::{self, Namespace, Workload};

#[derive(clap::Args)]
#[group(skip)]
#[command(group(ArgGroup::new("target").required(true)))]
pub struct Target {
    /// The device
    #[arg(value_name = "DEV", group = "target")]
    device: Option<String>,
    /// In place of DEV: a process of the workload, such as a container's; the host's side of its veth is found, and
    /// its addresses and MAC are taken for --ip and --workload-mac
    #[arg(long, value_name = "N", group = "target", value_parser = parse_pid)]
    pid: Option<u32>,
    /// The same by the workload's network namespace: a name of `ip netns`, or a path
    #[arg(long, value_name = "NAME|PATH", group = "target")]
    container_netns: Option<String>,
    /// What the device is called there
    #[arg(long, value_name = "NAME", default_value = "eth0", conflicts_with = "device")]
    ifname: String,
}

/// What is to be attached.
pub struct Found {
    /// The name of the device.
    pub name: String,
    /// The workload that it was found for.
    pub workload: Option<Workload>,
}

impl Target {
    /// Whether it is a workload's for sure.
    pub fn is_a_workload(&self) -> bool {
        self.device.is_none()
    }

    /// Finds it.
    pub fn find(&self) -> Result<Found> {
        let namespace = match (&self.device, self.pid, &self.container_netns) {
            (Some(name), ..) => return Ok(Found { name: name.clone(), workload: None }),
            (None, Some(pid), _) => Namespace::Of(pid),
            (None, None, path) => Namespace::At(path.clone().unwrap_or_default()),
        };
        let workload = workload::find(&namespace, &self.ifname)?;
        Ok(Found { name: workload.device.name.clone(), workload: Some(workload) })
    }
}

fn parse_pid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("that is no process: a container has none while it does not run".to_owned()),
        Ok(pid) => Ok(pid),
        Err(_) => Err("not the number of a process".to_owned()),
    }
}
