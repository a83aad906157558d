//! Tier runtimes: real ones (Docker, Podman, containerd, runc, LXC, libvirt) on a host of their own, whose workloads
//! send from their first instruction on. `make test-runtimes` installs them and sets `CILMARK_RUNTIMES`; without it
//! each test says that it is skipped.

mod cni;
mod docker;
mod host;
mod libvirt;
mod lxc;
mod many;
mod podman;
mod recipes;
mod workload;

use host::Host;
use workload::Workload;
