//! What LXC tells the scripts of a network, and what a container's configuration says of its networks and of cilmark.
//!
//! lxc.container.conf(5) describes both. LXC has no key for what others want to know of a container, so that what is said
//! of cilmark stands in comments, or in keys that LXC passes over.

mod event;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
pub use event::Event;
use ipnet::IpNet;

use super::mac::Mac;
use super::wish::Wish;

/// The most files that include each other.
const DEEPEST: usize = 16;

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
    /// What it says of cilmark.
    pub wish: Wish,
    nets: BTreeMap<u32, Net>,
    /// What is said of the addresses of one network.
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
            // A key that is none of its own LXC passes over without a word.
            let said = line.trim_start_matches('#').trim();
            if said.starts_with("cilmark.") {
                self.read_said(said).with_context(place)?;
            }
            if line.starts_with('#') {
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

    fn read_said(&mut self, line: &str) -> Result<()> {
        let (key, value) = line.split_once('=').with_context(|| {
            format!("`{line}` has no `=`; `# cilmark.id = web` says an identity")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        Config::read("config", text, &|path| {
            ensure!(path == "/more", "no {path}");
            Ok(vec![("/more".to_owned(), "lxc.include = /more".to_owned())])
        })
    }

    fn ips(net: &Net) -> Vec<String> {
        net.addresses().iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn lines_are_read_as_lxc_reads_them() {
        let config = read(
            "  lxc.net.0.type=veth\n lxc.net.00.link = \"lxcbr0\"\nlxc.net.0.ipv4.address = 10.0.0.2/24 10.0.0.255\n\
             lxc.net.0.ipv4.address = '10.0.0.3'\n#lxc.net.0.ipv4.address = 10.0.0.4\n\
             lxc.net.0.ipv6.address = fd00::1\nlxc.net.0.ipv6.address =\nlxc.net.0.ipv6.address = fd00::2/64\n\
             lxc.net.1.type = veth\nlxc.net.1 =\nlxc.network.type = veth\nlxc.net.0.mtu = 1500\nno line\n",
        )
        .unwrap();
        let net = config.net("vethA", Some("lxcbr0")).unwrap();
        assert_eq!(ips(&net), ["10.0.0.2", "10.0.0.3", "fd00::2"]);
        assert!(read("lxc.net.0.type = veth\nlxc.net =").unwrap().nets.is_empty());
        for wrong in [
            "lxc.net.0.ipv4.address = web",
            "lxc.net.x.type = veth",
            "lxc.include = /none",
            "lxc.include = /more",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cilmark_is_to_know_stands_in_comments_or_as_a_key_and_the_last_one_counts() {
        let config = read(
            "#cilmark.id=7\n## cilmark.id = \"8\"\n# about cilmark.id = 9\n#\n# cilmarks.id = 1",
        )
        .unwrap();
        let mut wish = Wish::default();
        wish.set("id", "8").unwrap();
        assert_eq!(config.wish, wish);
        assert_eq!(read("# cilmark.id = 7\n cilmark.id = 8").unwrap().wish, wish);
        for wrong in [
            "# cilmark.ident = 7",
            "cilmark.ident = 7",
            "# cilmark.id",
            "# cilmark.id =",
            "# cilmark.net.0.ip = 10.0.0.2",
            "lxc.net.0.type = veth\n# cilmark.net.0.id = 7",
            "lxc.net.0.type = veth\n# cilmark.net.x.ip = 10.0.0.2",
            "lxc.net.0.type = veth\nlxc.net.1.type = veth\n# cilmark.ip = 10.0.0.2",
            "lxc.net.0.type = veth\n# cilmark.ip = 10.0.0.2\n# cilmark.net.0.ip = 10.0.0.3",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_is_of_the_network_that_names_it_or_of_the_only_one_of_its_link() {
        let text = "lxc.net.0.type = veth\nlxc.net.0.link = a\nlxc.net.0.hwaddr = 02:00:00:00:00:01\n\
                    lxc.net.1.type = veth\nlxc.net.1.link = b\nlxc.net.1.hwaddr = 02:00:00:00:00:xx\n\
                    lxc.net.2.type = veth\nlxc.net.2.link = a\nlxc.net.2.veth.pair = named\n\
                    lxc.net.3.type = macvlan\nlxc.net.3.link = a\n";
        let config = read(text).unwrap();
        let hwaddr = |device: &str, link| config.net(device, link).unwrap().hwaddr().unwrap();
        assert_eq!(hwaddr("vethA", Some("a")), Hwaddr::Set("02:00:00:00:00:01".parse().unwrap()));
        assert_eq!(hwaddr("vethA", Some("b")), Hwaddr::Random);
        assert_eq!(hwaddr("named", Some("a")), Hwaddr::AsItIs);
        assert_eq!(hwaddr("vethA", None), Hwaddr::AsItIs);
        let more = "lxc.net.4.type = veth\nlxc.net.4.link = a\nlxc.net.4.name = eth4\n";
        let error = format!(
            "{:#}",
            read(&(text.to_owned() + more)).unwrap().net("vethA", Some("a")).unwrap_err()
        );
        assert!(error.contains("lxc.net.0.veth.pair and lxc.net.4.veth.pair"), "{error}");
        let same = read(&more.replace('4', "5").replace("eth5", "eth0")).unwrap();
        assert_eq!(same.net("vethA", Some("a")).unwrap().name.as_deref(), Some("eth0"));
        let twins = read(&(more.to_owned() + &more.replace('4', "5"))).unwrap();
        assert_eq!(twins.net("vethA", Some("a")).unwrap().name, None, "which of both nobody knows");
    }
}
