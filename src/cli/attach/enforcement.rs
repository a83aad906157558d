//! The flags of `attach` about policy: modes, failsafe ports, existing flows, and confirmation.

use std::env;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use log::debug;
use nix::unistd::getppid;

use crate::cli::prompt::{self, Prompt};
use crate::cli::values;
use crate::kernel::abi::cm_confirm;
use crate::kernel::sys;
use crate::model::endpoint::Role;
use crate::model::enforcement::{Failsafe, FailsafeList, Fallback, MAX_FAILSAFE, Mode, VerdictLog};
use crate::model::spec::CtScope;
use crate::model::time::Time;
use crate::program::load::{Enforcement, MAX_ENTRIES, Sizes, Spec};
use crate::state::registry::Endpoint;

/// `--adopt` if it is not given, when a NIC begins to enforce.
const ADOPT: Duration = Duration::from_secs(30);

/// The flags.
#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// What the rules do, in both directions; `off` if left out
    #[arg(long, value_name = "MODE", value_parser = values::mode())]
    policy: Option<Mode>,
    /// The same for what is sent to it
    #[arg(long, value_name = "MODE", value_parser = values::mode())]
    ingress_policy: Option<Mode>,
    /// The same for what it sends
    #[arg(long, value_name = "MODE", value_parser = values::mode())]
    egress_policy: Option<Mode>,
    #[command(flatten)]
    prompt: Prompt,
    /// Let flows go on that the kernel's conntrack knows, and for this long TCP connections of a NIC's
    /// host that are up; by default 30s when a NIC begins to enforce
    #[arg(long, value_name = "TIME")]
    adopt: Option<Time>,
    /// Ports of a NIC that no rule closes: `none`, or such as tcp/22,egress:udp/53. A direction that is
    /// not named keeps its own: SSH, DHCP, DNS, NTP
    #[arg(long, value_name = "LIST")]
    failsafe: Option<FailsafeList>,
    /// Of which packets `monitor --type policy-verdict` tells the verdict
    #[arg(long, value_name = "DIRECTION", value_parser = values::verdict_log(), default_value = "both")]
    policy_verdict_log: VerdictLog,
    /// Share the flows with other endpoints, or keep them in maps of its own
    #[arg(long, value_parser = values::ct_scope(), default_value = "global")]
    ct: CtScope,
    /// Size of the maps of flows, if this makes them: of the one for IPv4, and of that for IPv6
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_ENTRIES))]
    ct_entries: Option<u32>,
    /// How many entries the rules may come to
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(32..=MAX_ENTRIES))]
    policy_entries: Option<u32>,
}

impl Args {
    /// Ingress, egress.
    fn modes(&self) -> [Mode; 2] {
        [self.ingress_policy, self.egress_policy]
            .map(|mode| mode.or(self.policy).unwrap_or_default())
    }

    fn enforces(&self) -> bool {
        self.modes().contains(&Mode::Enforce)
    }

    /// Refuses flags that do not go with each other or with the role.
    pub fn check(&self, device: &str, role: Role) -> Result<()> {
        ensure!(
            self.failsafe.is_none() || role == Role::Netdev,
            "--failsafe is for the role netdev, and {device} is a {role}"
        );
        ensure!(
            self.failsafe.is_none() || self.modes() != [Mode::Off; 2],
            "--failsafe is for a policy, and this one is off"
        );
        ensure!(
            self.prompt.confirm.is_none() || self.enforces(),
            "--confirm is for --policy enforce: nothing else may cut anybody off"
        );
        ensure!(
            self.adopt.is_none() || self.modes() != [Mode::Off; 2],
            "--adopt is for a policy, and this one is off"
        );
        Ok(())
    }

    /// Asks the user, unless `--yes` or `--confirm` has answered: if a NIC is going to enforce, or if `taken` is taken
    /// from one that enforces. To be called before the lock is taken, since people take their time.
    pub fn prompt(&self, device: &str, role: Role, taken: &[String]) -> Result<()> {
        let taken = taken.join("; ");
        if role == Role::Netdev && self.enforces() {
            let also = if taken.is_empty() { taken } else { format!(" ({taken})") };
            let risk =
                format!("{device} is going to drop what no rule and no failsafe port allows{also}");
            return self.prompt.obtain(&risk, device);
        }
        if taken.is_empty() {
            return Ok(());
        }
        let risk =
            format!("{device} enforces its policy for this host, and would be relaxed: {taken}");
        self.prompt.obtain_openly(&risk)
    }

    /// Whether flags have consented to what a NIC loses.
    pub fn may_relax(&self) -> bool {
        self.prompt.yes || self.prompt.confirm.is_some()
    }

    /// Asks whether the user wants a role that the device does not look like.
    pub fn prompt_for_role(&self, risk: &str) -> Result<()> {
        self.prompt.obtain_openly(risk)
    }

    /// What the programs are loaded with.
    pub fn plan(&self, role: Role, replaced: Option<&Endpoint>) -> Result<Enforcement> {
        let [ingress, egress] = self.modes();
        let ct_local = self.ct == CtScope::Local;
        Ok(Enforcement {
            ingress,
            egress,
            failsafe: if role == Role::Netdev { self.failsafe() } else { Failsafe::default() },
            adopt_until_ns: self.adopt_until_ns(role, ct_local, replaced)?,
            ct_local,
            verdict_log: self.policy_verdict_log,
        })
    }

    fn failsafe(&self) -> Failsafe {
        let mut standard = Failsafe::standard();
        if let Some(port) = ssh_server_port() {
            standard.open_tcp(port);
            standard.ingress.truncate(MAX_FAILSAFE);
        }
        self.failsafe.clone().unwrap_or_default().or(standard)
    }

    /// Until when TCP connections are adopted by their sockets. Programs that enforced before know all flows already,
    /// unless their conntrack was another map.
    fn adopt_until_ns(
        &self,
        role: Role,
        ct_local: bool,
        replaced: Option<&Endpoint>,
    ) -> Result<u64> {
        let until = |time: Duration| match time {
            Duration::ZERO => 0,
            time => sys::coarse_ns().saturating_add(time.as_nanos() as u64),
        };
        if let Some(time) = self.adopt {
            return Ok(until(time.get()));
        }
        if role != Role::Netdev || !self.enforces() {
            return Ok(0);
        }
        match replaced {
            Some(endpoint)
                if endpoint.config.modes().contains(&Mode::Enforce)
                    && (endpoint.config.ct_local != 0) == ct_local =>
            {
                Ok(endpoint.config.adopt_until_ns)
            }
            _ => Ok(until(ADOPT)),
        }
    }

    /// Whether flows that are up are taken over from the kernel's conntrack: if a direction begins to ask its rules, so
    /// that cilmark has no entries of them. Without `--adopt` only a NIC that begins to enforce does: audit is there
    /// to report such flows.
    pub fn adopts(&self, role: Role, replaced: Option<&Endpoint>) -> bool {
        let least = match self.adopt.map(Time::get) {
            Some(Duration::ZERO) => return false,
            Some(_) => Mode::Audit,
            None if role == Role::Netdev => Mode::Enforce,
            None => return false,
        };
        let ct_local = self.ct == CtScope::Local;
        let same_maps = replaced.filter(|it| (it.config.ct_local != 0) == ct_local);
        let before = same_maps.map_or([Mode::Off; 2], |it| it.config.modes());
        before.iter().zip(self.modes()).any(|(before, now)| *before < now && now >= least)
    }

    /// The confirmation that the programs wait for from their first packet on.
    pub fn confirmation(&self) -> cm_confirm {
        match self.prompt.deadline() {
            Some(until_ns) => {
                cm_confirm { until_ns, fallback: Fallback::Audit.into(), ..cm_confirm::default() }
            }
            None => cm_confirm::default(),
        }
    }

    /// Sizes of the maps that a policy needs.
    pub fn sizes(&self) -> Sizes {
        Sizes { ct: self.ct_entries, policy: self.policy_entries, ..Sizes::default() }
    }

    /// Reminds the user of the confirmation that is due.
    pub fn report(&self, spec: &Spec) {
        if let Some(time) = self.prompt.confirm {
            prompt::remind(&spec.device.name, time, "it only audits from then on");
        }
    }
}

/// The port of the SSH server by which the user has logged in. sudo drops SSH_CONNECTION, so the environments of the
/// parent processes are read, too.
fn ssh_server_port() -> Option<u16> {
    if let Ok(connection) = env::var("SSH_CONNECTION") {
        return server_port(&connection);
    }
    let mut process = getppid().as_raw();
    while process > 1 {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let connection = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="));
        if let Some(connection) = connection {
            debug!("process {process} has come by SSH");
            return server_port(&String::from_utf8_lossy(connection));
        }
        // The parent is the second field behind the name, which may contain anything.
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        process = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
    }
    None
}

/// The last field of SSH_CONNECTION: client address, client port, server address, server port.
fn server_port(connection: &str) -> Option<u16> {
    connection.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_the_ssh_server_is_the_last_word() {
        assert_eq!(server_port("192.0.2.7 51022 192.0.2.1 2222"), Some(2222));
        assert_eq!(server_port("192.0.2.7 51022"), None);
    }
}
