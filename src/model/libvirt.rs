//! What the XML of a libvirt domain says of its interfaces and of cilmark.
//!
//! libvirt's formatdomain.html describes it. Of a domain that runs it names each interface's tap, and for one of a network
//! what that has come to, such as `direct` for a network of macvtaps.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use roxmltree::{Document, Node};

use super::mac::Mac;
use super::wish::Wish;

/// The namespace of cilmark's element in a domain's metadata.
pub const NAMESPACE: &str = "urn:cilmark";

/// What a domain is to have.
#[derive(Debug, PartialEq, Eq)]
pub struct Domain {
    /// What its metadata say.
    pub wish: Wish,
    /// Its interfaces, in their order.
    pub interfaces: Vec<Interface>,
}

/// An interface of a domain.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its type, such as `bridge`.
    kind: String,
    /// Its device on the host, while the domain runs.
    device: Option<String>,
    /// Its MAC inside.
    pub mac: Option<Mac>,
    /// The network of libvirt that it is in.
    pub network: Option<String>,
    /// The addresses that the metadata give to it alone.
    pub ip: Option<Vec<IpNet>>,
}

impl Domain {
    /// Reads the XML of a domain.
    pub fn read(xml: &str) -> Result<Domain> {
        let document = parse(xml)?;
        let root = document.root_element();
        let mut domain = Domain { wish: Wish::default(), interfaces: interfaces(root)? };
        if let Some(workload) = workload(root)? {
            domain.read_wish(workload).context("the domain's metadata")?;
        }
        Ok(domain)
    }

    fn read_wish(&mut self, workload: Node<'_, '_>) -> Result<()> {
        let text = workload.children().filter(Node::is_text).filter_map(|it| it.text());
        ensure!(
            text.collect::<String>().trim().is_empty() && workload.attributes().len() == 0,
            "<workload> has elements, and neither attributes nor text: <id>web</id> says an identity"
        );
        let mut keys = BTreeSet::new();
        for node in workload.children().filter(Node::is_element) {
            let key = node.tag_name().name();
            let value: String =
                node.children().filter(Node::is_text).filter_map(|it| it.text()).collect();
            let read = match mac_of(node)? {
                Some(mac) => self.read_ip_of(mac, key, &value),
                None => {
                    ensure!(keys.insert(key), "<{key}> is there twice");
                    self.wish.set(key, &value)
                }
            };
            read.with_context(|| format!("<{key}>"))?;
        }
        let is_empty = keys.is_empty() && self.interfaces.iter().all(|it| it.ip.is_none());
        ensure!(!is_empty, "<workload> says nothing: <id>web</id> in it says an identity");
        let own = self.interfaces.iter().filter(|it| it.ip.is_some()).count();
        ensure!(
            self.wish.ip.is_none() || own == 0 && self.interfaces.len() < 2,
            "<ip> says the addresses of one interface, and there are {}: write one for each, such as <ip mac=\"{}\">…</ip>",
            self.interfaces.len(),
            self.interfaces.iter().find_map(|it| it.mac).unwrap_or(Mac([0x52, 0x54, 0, 0, 0, 1]))
        );
        Ok(())
    }

    /// An element that says something of the interface with a MAC.
    fn read_ip_of(&mut self, mac: &str, key: &str, value: &str) -> Result<()> {
        ensure!(key == "ip", "only <ip> is about one interface, and has a mac");
        let mac: Mac = mac.parse()?;
        let mut wish = Wish::default();
        wish.set(key, value)?;
        let interface = self.interfaces.iter_mut().find(|it| it.mac == Some(mac));
        let interface = interface.with_context(|| format!("no interface has the MAC {mac}"))?;
        ensure!(interface.ip.is_none(), "that of {mac} is there twice");
        interface.ip = wish.ip;
        Ok(())
    }
}

impl Interface {
    fn read(node: Node<'_, '_>) -> Result<Interface> {
        let of_child = |name: &str, key: &str| -> Option<String> {
            let value = children(node, name).find_map(|it| it.attribute(key));
            value.map(str::to_owned)
        };
        let mac = of_child("mac", "address");
        Ok(Interface {
            kind: node.attribute("type").unwrap_or_default().to_owned(),
            device: of_child("target", "dev"),
            mac: mac.map(|mac| mac.parse().context("an interface's <mac>")).transpose()?,
            network: of_child("source", "network"),
            ip: None,
        })
    }

    /// Its tap on this host. An error if it has none, or not yet.
    pub fn tap(&self) -> Result<&str> {
        let name =
            self.mac.map_or_else(|| "an interface".to_owned(), |mac| format!("interface {mac}"));
        let kind = &self.kind;
        match kind.as_str() {
            "network" | "bridge" | "ethernet" => self.device.as_deref().with_context(|| {
                format!("{name} (type `{kind}`) has no <target dev>: its tap is not there yet")
            }),
            "direct" => bail!(
                "{name} is a macvtap (type `direct`), which shares a NIC of the host and has no device of its own for an \
                 identity; connect it to a bridge, or to a network of libvirt that has one"
            ),
            _ => bail!(
                "{name} has no tap on this host (type `{kind}`), for which it could have an identity; connect it by type \
                 `network`, `bridge` or `ethernet`"
            ),
        }
    }
}

/// The interfaces of a domain alone, whatever its metadata say.
pub fn read_interfaces(xml: &str) -> Result<Vec<Interface>> {
    interfaces(parse(xml)?.root_element())
}

fn parse(xml: &str) -> Result<Document<'_>> {
    ensure!(
        !xml.trim().is_empty(),
        "there is no XML of the domain on stdin, where libvirt gives it to its hook; by hand: virsh dumpxml GUEST | cilmark \
         hook libvirt GUEST reconnect begin -"
    );
    let document = Document::parse(xml).context("the domain's XML")?;
    let root = document.root_element();
    ensure!(
        root.has_tag_name("domain"),
        "the XML is that of a <{}>; libvirt gives its hook that of a <domain>",
        root.tag_name().name()
    );
    Ok(document)
}

fn interfaces(root: Node<'_, '_>) -> Result<Vec<Interface>> {
    let devices = children(root, "devices");
    devices.flat_map(|node| children(node, "interface")).map(Interface::read).collect()
}

/// cilmark's element in the metadata.
fn workload<'a>(root: Node<'a, 'a>) -> Result<Option<Node<'a, 'a>>> {
    let mut found = None;
    for node in children(root, "metadata").flat_map(|it| it.children()).filter(Node::is_element) {
        let (uri, name) = (node.tag_name().namespace().unwrap_or_default(), node.tag_name().name());
        ensure!(
            uri == NAMESPACE || !uri.to_ascii_lowercase().contains("cilmark"),
            "the domain's metadata have an element <{name}> of `{uri}`; cilmark's is <workload> of `{NAMESPACE}`"
        );
        if uri == NAMESPACE {
            ensure!(
                name == "workload",
                "the domain's metadata: <{name}> of `{NAMESPACE}` is to be <workload>"
            );
            ensure!(found.is_none(), "the domain's metadata have two <workload> of `{NAMESPACE}`");
            found = Some(node);
        }
    }
    Ok(found)
}

/// The MAC that an element of ours is about; it has nothing else but text.
fn mac_of<'a>(node: Node<'a, 'a>) -> Result<Option<&'a str>> {
    let name = node.tag_name().name();
    let uri = node.tag_name().namespace();
    ensure!(
        uri.is_none_or(|uri| uri == NAMESPACE),
        "<{name}> is of `{}`, not of `{NAMESPACE}`",
        uri.unwrap_or_default()
    );
    ensure!(!node.children().any(|it| it.is_element()), "<{name}> has elements in it; it is text");
    let other = node.attributes().find(|it| it.name() != "mac");
    if let Some(other) = other {
        bail!("<{name}> has no attribute `{}`", other.name());
    }
    Ok(node.attribute("mac"))
}

/// libvirt's own elements are in no namespace.
fn children<'a>(node: Node<'a, 'a>, name: &str) -> impl Iterator<Item = Node<'a, 'a>> {
    node.children().filter(move |it| it.has_tag_name(name) && it.tag_name().namespace().is_none())
}

/// The address that a MAC gets for good, by a file `NETWORK.hostsfile` that libvirt writes for dnsmasq: lines such as
/// `52:54:00:00:00:01,192.168.122.60,web`. Lines for DHCPv6 name no MAC.
pub fn static_lease(hosts: &str, mac: Mac) -> Option<IpAddr> {
    hosts.lines().find_map(|line| {
        let mut fields = line.split(',').map(str::trim);
        (fields.next()?.parse::<Mac>().ok()? == mac).then(|| fields.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Identity;
    use crate::model::spec::IdentityRef;

    const MAC: &str = "52:54:00:00:00:01";

    fn read(metadata: &str, interfaces: &str) -> Result<Domain> {
        Domain::read(&format!(
            "<domain><metadata>{metadata}</metadata><devices>{interfaces}</devices></domain>"
        ))
    }

    #[test]
    fn the_prefix_of_the_namespace_does_not_matter_and_other_namespaces_are_others() {
        for metadata in [
            "<cilmark:workload xmlns:cilmark='urn:cilmark'><cilmark:id>501</cilmark:id></cilmark:workload>",
            "<workload xmlns='urn:cilmark'>\n <id> 501 </id>\n</workload>",
            "<x:workload xmlns:x='urn:cilmark'><id>501</id><!-- web --></x:workload>",
            "<a:b xmlns:a='urn:other'><id>7</id></a:b><w:workload xmlns:w='urn:cilmark'><w:id>5<!-- -->01</w:id></w:workload>",
        ] {
            let wish = read(metadata, "").unwrap().wish;
            assert_eq!(wish.id, Some(IdentityRef::Number(Identity(501))), "{metadata}");
        }
        let wish =
            read("<workload><id>7</id></workload><workload xmlns='urn:other'/>", "").unwrap().wish;
        assert!(wish.is_empty());
        assert!(Domain::read("<domain/>").unwrap().wish.is_empty());
    }

    #[test]
    fn what_would_count_for_nothing_is_an_error() {
        let of = |content: &str| format!("<workload xmlns='urn:cilmark'>{content}</workload>");
        let interface = format!("<interface><mac address='{MAC}'/></interface>");
        for (metadata, word) in [
            (of("<ID>7</ID>"), "<ID>: there is no such key"),
            (of("<id/>"), "empty"),
            (of("<id>7</id><id>8</id>"), "<id> is there twice"),
            (of("<id><b>7</b></id>"), "elements in it"),
            (of("<id class='x'>7</id>"), "no attribute `class`"),
            (of("<id xmlns='urn:x'>7</id>"), "`urn:x`"),
            (of(&format!("<id mac='{MAC}'>7</id>")), "only <ip>"),
            (
                of("<ip mac='52:54:00:00:00:02'>10.0.0.2</ip>"),
                "no interface has the MAC 52:54:00:00:00:02",
            ),
            (of(&format!("<ip>10.0.0.2</ip><ip mac='{MAC}'>10.0.0.3</ip>")), "one interface"),
            (of(&format!("<ip mac='{MAC}'>10.0.0.2</ip><ip mac='{MAC}'>10.0.0.3</ip>")), "twice"),
            (of("<id>7</id>") + &of("<id>8</id>"), "two <workload>"),
            (of(""), "says nothing"),
            (of("501"), "neither attributes nor text"),
            (of("<id>7</id> web"), "neither attributes nor text"),
            ("<workload id='7' xmlns='urn:cilmark'/>".to_owned(), "neither attributes nor text"),
            ("<guest xmlns='urn:cilmark'/>".to_owned(), "is to be <workload>"),
            ("<workload xmlns='urn:Cilmark:1'/>".to_owned(), "`urn:cilmark`"),
        ] {
            let error = format!("{:#}", read(&metadata, &interface).unwrap_err());
            assert!(error.contains(word), "{metadata}: {error}");
        }
        for (xml, word) in [
            ("\n", "virsh dumpxml"),
            ("<network/>", "that of a <network>"),
            ("<domain>", "never closed"),
            ("<!DOCTYPE d [<!ENTITY e 'x'>]><domain/>", "the domain's XML"),
        ] {
            let error = format!("{:#}", Domain::read(xml).unwrap_err());
            assert!(error.contains(word), "{xml}: {error}");
        }
    }

    #[test]
    fn an_interface_has_a_tap_by_its_type_and_target() {
        let one = |kind: &str, target: &str| {
            let domain =
                read("", &format!("<interface type='{kind}'>{target}</interface>")).unwrap();
            domain.interfaces[0].tap().map(str::to_owned)
        };
        for kind in ["network", "bridge", "ethernet"] {
            assert_eq!(one(kind, "<target dev='vnet0'/>").unwrap(), "vnet0");
            assert!(one(kind, "").is_err());
        }
        for kind in ["direct", "user", "hostdev", "vhostuser", "vdpa", "of-tomorrow"] {
            assert!(one(kind, "<target dev='vnet0'/>").is_err(), "{kind}");
        }
    }

    #[test]
    fn a_static_lease_is_found_by_the_mac_alone() {
        let hosts = "52:54:00:00:00:09,192.168.122.61,2h\nbyname,192.168.122.62\n52:54:00:00:00:01,192.168.122.60,vm1\n\
                     id:0:3:0:1:52:54:00:00:00:01,vm1,[fd00:122::60]\n52:54:00:00:00:02,named\n";
        let lease = |mac: &str| static_lease(hosts, mac.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(lease(MAC).as_deref(), Some("192.168.122.60"));
        assert_eq!(lease("52:54:00:00:00:09").as_deref(), Some("192.168.122.61"));
        assert_eq!(lease("52:54:00:00:00:02"), None);
        assert_eq!(lease("52:54:00:00:00:03"), None);
    }
}
