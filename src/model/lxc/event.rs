//! What LXC tells the scripts of a network.

use anyhow::{Context as _, Result, bail, ensure};

/// A script of a network is called.
#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    /// The container.
    pub name: String,
    /// Its network has come, and it is about to run; or it has ended, and its network goes.
    pub is_up: bool,
    /// The type of the network, such as `veth`.
    pub kind: String,
    /// Its device on the host, of a veth.
    pub device: Option<String>,
    /// What that is connected to.
    pub link: Option<String>,
    /// The process of the container, or one that becomes it.
    pub pid: Option<u32>,
    /// The path of its configuration.
    pub config: String,
}

impl Event {
    /// Reads environment and arguments, by either `lxc.hook.version`.
    pub fn read(variable: impl Fn(&str) -> Option<String>, arguments: &[String]) -> Result<Event> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let needed = |name: &str| {
            variable(name).with_context(|| {
                format!("there is no {name}: this is for lxc.net.N.script.up and .down, and LXC calls it")
            })
        };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (section, when, kind, link, device) = if variable("LXC_HOOK_VERSION").as_deref()
            == Some("1")
        {
            let kind = needed("LXC_NET_TYPE")?;
            // After a veth LXC leaves its name there for networks of other types.
            let device = variable("LXC_NET_PEER").filter(|_| kind == "veth");
            (
                needed("LXC_HOOK_SECTION")?,
                needed("LXC_HOOK_TYPE")?,
                kind,
                variable("LXC_NET_PARENT"),
                device,
            )
        } else {
            let [_, section, when, kind, rest @ ..] = arguments.as_slice() else {
                bail!(
                    "LXC calls this as lxc.net.N.script.up and .down, with lxc.hook.version = 1 or the arguments NAME net \
                     up|down TYPE […]"
                );
            };
            let (link, device) = match (*kind, rest) {
                ("veth", [link, device]) => (Some(*link), Some(*device)),
                ("veth", [device]) => (None, Some(*device)),
                (_, rest) => (rest.first().copied(), None),
            };
            let owned = |text: Option<&str>| text.map(str::to_owned);
            (
                (*section).to_owned(),
                (*when).to_owned(),
                (*kind).to_owned(),
                owned(link),
                owned(device),
            )
        };
        let is_up = match (section.as_str(), when.as_str()) {
            ("net", "up") => true,
            ("net", "down") => false,
            _ => bail!(
                "`{section} {when}` is no script of a network: set it as lxc.net.N.script.up and .down"
            ),
        };
        ensure!(
            kind != "veth" || device.is_some(),
            "LXC does not tell the host's device of the veth"
        );
        let pid = variable("LXC_PID").map(|pid| pid.parse().context("LXC_PID")).transpose()?;
        let (name, config) = (needed("LXC_NAME")?, needed("LXC_CONFIG_FILE")?);
        Ok(Event { name, is_up, kind, device, link, pid, config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_what_the_arguments_said_before() {
        let new = |kind: &str| {
            let kind = kind.to_owned();
            Event::read(
                |name| {
                    let value = match name {
                        "LXC_HOOK_VERSION" => "1",
                        "LXC_HOOK_SECTION" => "net",
                        "LXC_HOOK_TYPE" => "up",
                        "LXC_NET_TYPE" => &kind,
                        "LXC_NET_PARENT" => "lxcbr0",
                        "LXC_NET_PEER" => "vethA",
                        "LXC_PID" => "24",
                        "LXC_NAME" => "c1",
                        "LXC_CONFIG_FILE" => "/c1/config",
                        _ => return None,
                    };
                    Some(value.to_owned())
                },
                &[],
            )
            .unwrap()
        };
        let old = |arguments: &str| {
            let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
            let variable = |name: &str| match name {
                "LXC_PID" => Some("24".to_owned()),
                "LXC_NAME" => Some("c1".to_owned()),
                "LXC_CONFIG_FILE" => Some("/c1/config".to_owned()),
                _ => None,
            };
            Event::read(variable, &arguments)
        };
        assert_eq!(new("veth"), old("c1 net up veth lxcbr0 vethA").unwrap());
        assert_eq!(new("macvlan"), old("c1 net up macvlan lxcbr0").unwrap());
        assert_eq!(new("macvlan").device, None, "it is the name of a veth before");
        assert_eq!(old("c1 net down veth vethA").unwrap().link, None);
        for wrong in [
            "c1",
            "c1 net up",
            "c1 lxc start veth vethA",
            "c1 net up veth",
            "c1 net later veth vethA",
        ] {
            assert!(old(wrong).is_err(), "{wrong}");
        }
    }
}
