//! What LXC tells the scripts of a network, and what a container's configuration says of its networks and of cilmark.
//!
//! lxc.container.conf(5) describes both. LXC has no key for what others want to know of a container, so that what is said
//! of cilmark stands in comments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;

use super::mac::Mac;
use super::wish::Wish;

/// The most files that include each other.
const DEEPEST: usize = 16;

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

/// A network of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Net {
    kind: String,
    link: Option<String>,
    pair: Option<String>,
    /// What its device is called inside, if that is said.
    pub name: Option<String>,
    hwaddr: Option<String>,
    ipv4: Vec<IpAddr>,
    ipv6: Vec<IpAddr>,
    /// What is said of its addresses.
    pub said_ip: Option<Vec<IpNet>>,
}

/// The MAC that a container's device is going to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hwaddr {
    /// What it has already.
    AsItIs,
    /// This one.
    Set(Mac),
    /// One that LXC makes of a pattern, and tells nobody.
    Random,
}

impl Net {
    /// Its MAC.
    pub fn hwaddr(&self) -> Result<Hwaddr> {
        Ok(match &self.hwaddr {
            None => Hwaddr::AsItIs,
            Some(text) if text.contains(['x', 'X']) => Hwaddr::Random,
            Some(text) => Hwaddr::Set(text.parse()?),
        })
    }

    /// Its static addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        [self.ipv4.clone(), self.ipv6.clone()].concat()
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let text = Some(value.to_owned()).filter(|text| !text.is_empty());
        match key {
            "type" => self.kind = text.unwrap_or_default(),
            "link" => self.link = text,
            "veth.pair" => self.pair = text,
            "name" => self.name = text,
            "hwaddr" => self.hwaddr = text,
            "ipv4.address" => add(&mut self.ipv4, value)?,
            "ipv6.address" => add(&mut self.ipv6, value)?,
            _ => {}
        }
        Ok(())
    }
}

/// `10.0.0.2/24 10.0.0.255`; nothing takes away those before.
fn add(addresses: &mut Vec<IpAddr>, value: &str) -> Result<()> {
    let address = value.split(['/', ' ', '\t']).next().unwrap_or_default();
    match address {
        "" => addresses.clear(),
        address => addresses.push(address.parse().with_context(|| format!("address `{value}`"))?),
    }
    Ok(())
}

/// A file that is included: its path, for messages, and its text.
pub type Included = (String, String);

/// The configuration of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What its comments say.
    pub wish: Wish,
    nets: BTreeMap<u32, Net>,
    /// What comments say of the addresses of one network.
    ips: BTreeMap<u32, Vec<IpNet>>,
}

impl Config {
    /// Reads a configuration; `include` reads a file, or all of a directory that LXC would. As in LXC the last line of a key
    /// counts.
    pub fn read(
        path: &str,
        text: &str,
        include: &impl Fn(&str) -> Result<Vec<Included>>,
    ) -> Result<Config> {
        let mut config = Config::default();
        config.read_file(path, text, include, 0)?;
        for (index, ip) in std::mem::take(&mut config.ips) {
            let net = config.nets.get_mut(&index).with_context(|| {
                format!(
                    "{path}: cilmark.net.{index}.ip is about lxc.net.{index}, which there is not"
                )
            })?;
            net.said_ip = Some(ip);
        }
        let own = config.nets.values().filter(|net| net.said_ip.is_some()).count();
        ensure!(
            config.wish.ip.is_none() || own == 0 && config.nets.len() < 2,
            "{path}: cilmark.ip says the addresses of one network, and there are {}: write cilmark.net.{}.ip and so on for \
             each",
            config.nets.len(),
            config.nets.keys().next().copied().unwrap_or_default()
        );
        Ok(config)
    }

    fn read_file(
        &mut self,
        path: &str,
        text: &str,
        include: &impl Fn(&str) -> Result<Vec<Included>>,
        depth: usize,
    ) -> Result<()> {
        ensure!(depth < DEEPEST, "{path}: lxc.include goes deeper than {DEEPEST} files");
        for (number, line) in text.lines().enumerate() {
            let place = || format!("{path}:{}", number + 1);
            let line = line.trim();
            if let Some(comment) = line.strip_prefix('#') {
                self.read_comment(comment.trim_start_matches('#').trim()).with_context(place)?;
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), unquoted(value.trim()));
            if key == "lxc.include" {
                for (path, text) in include(value).with_context(place)? {
                    self.read_file(&path, &text, include, depth + 1)?;
                }
            } else if let Some(key) = key.strip_prefix("lxc.net") {
                self.set_net(key, value).with_context(place)?;
            }
        }
        Ok(())
    }

    fn read_comment(&mut self, comment: &str) -> Result<()> {
        if !comment.starts_with("cilmark.") {
            return Ok(());
        }
        let (key, value) = comment.split_once('=').with_context(|| {
            format!("`{comment}` has no `=`; `# cilmark.id = web` says an identity")
        })?;
        let (key, value) = (key.trim(), unquoted(value.trim()));
        let short = key.strip_prefix("cilmark.").unwrap_or(key);
        let net = short.strip_prefix("net.").and_then(|rest| rest.strip_suffix(".ip"));
        let mut set = || match net {
            None => self.wish.set(short, value),
            Some(index) => {
                let mut wish = Wish::default();
                wish.set("ip", value)?;
                self.ips.insert(index.parse()?, wish.ip.unwrap_or_default());
                Ok(())
            }
        };
        set().with_context(|| key.to_owned())
    }

    /// What stands behind `lxc.net`: nothing, or the number of a network and a key.
    fn set_net(&mut self, key: &str, value: &str) -> Result<()> {
        let Some(key) = key.strip_prefix('.') else {
            if key.is_empty() && value.is_empty() {
                self.nets.clear();
            }
            return Ok(());
        };
        let (index, key) = key.split_once('.').unwrap_or((key, ""));
        let index: u32 = index.parse().with_context(|| format!("lxc.net.{index}"))?;
        if key.is_empty() {
            self.nets.remove(&index);
            return Ok(());
        }
        self.nets
            .entry(index)
            .or_default()
            .set(key, value)
            .with_context(|| format!("lxc.net.{index}.{key}"))
    }

    /// The network of a device: that with its name, else the only one, without a name, of its link. Of several that say
    /// the same of it any will do.
    pub fn net(&self, device: &str, link: Option<&str>) -> Result<Net> {
        let named = self.nets.values().find(|net| net.pair.as_deref() == Some(device));
        if let Some(net) = named {
            return Ok(net.clone());
        }
        let is_its =
            |net: &Net| net.kind == "veth" && net.pair.is_none() && net.link.as_deref() == link;
        let candidates: BTreeMap<u32, &Net> = self
            .nets
            .iter()
            .filter(|(_, net)| is_its(net))
            .map(|(index, net)| (*index, net))
            .collect();
        let Some(first) = candidates.values().next() else { return Ok(Net::default()) };
        let differs = |net: &&Net| {
            Net { name: None, ..(*net).clone() } != Net { name: None, ..(*first).clone() }
        };
        if candidates.values().any(differs) {
            let keys: BTreeSet<String> =
                candidates.keys().map(|index| format!("lxc.net.{index}.veth.pair")).collect();
            bail!(
                "{device} is of one of {} networks, whose addresses or MACs differ, and LXC does not tell which: name their \
                 devices by {}",
                candidates.len(),
                keys.into_iter().collect::<Vec<_>>().join(" and ")
            );
        }
        Ok(Net { name: first.name.clone().filter(|_| candidates.len() == 1), ..(*first).clone() })
    }
}

/// LXC takes one pair of quotes away.
fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}
