//! What this host wants to say: its endpoints' addresses as lines of etcd.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cilmark::model::endpoint::{EndpointId, Role};
use cilmark::model::identity::Identity;
use cilmark::ops::cluster::endpoints::LocalEndpoint;

use crate::cilium::accept::is_local;
use crate::cilium::pair::{Pair, metadata};
use crate::cilium::range::Range;
use crate::config::Config;
use crate::service::state::Unpublished;

/// Identities that an operator may give by number, which mean the same in every cluster.
const OF_OPERATORS: std::ops::RangeInclusive<u32> = 128..=255;

/// What there is on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Local {
    /// Its endpoints, by number.
    pub endpoints: Vec<LocalEndpoint>,
    /// The addresses of its NICs for others, each with the endpoint of the NIC.
    pub nics: BTreeMap<IpAddr, Option<EndpointId>>,
}

/// What is to be in etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By address.
    pub lines: BTreeMap<IpAddr, Line>,
    /// What is left out.
    pub unpublished: Vec<Unpublished>,
}

/// An address that is to be in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Whose it is.
    pub identity: Identity,
    /// The endpoint's device; none for an address of the host.
    pub device: String,
    /// Another one than that of any endpoint before with this address.
    pub birth: u64,
    /// The value.
    pub value: String,
}

impl Wanted {
    /// Of what there is. Of an address that several endpoints share the lowest number counts.
    pub fn of(local: &Local, config: &Config) -> Wanted {
        let range = Range::of(config.id, config.max_clusters);
        let mut wanted = Wanted::default();
        for endpoint in &local.endpoints {
            wanted.add(endpoint, &range, config);
        }
        if config.publish_host {
            for (address, nic) in &local.nics {
                let nic = nic.and_then(|id| local.endpoints.iter().find(|it| it.id == id));
                let (id, birth) = nic.map_or((0, 0), |nic| (nic.id.get().into(), nic.birth));
                let device = nic.map(|nic| nic.device.clone()).unwrap_or_default();
                wanted.add_line(*address, Identity::REMOTE_NODE, device, birth, id, config);
            }
        }
        wanted
    }

    fn add(&mut self, endpoint: &LocalEndpoint, range: &Range, config: &Config) {
        let LocalEndpoint { identity, device, .. } = endpoint;
        let mut leave_out = |why: String| {
            let (device, identity) = (device.clone(), *identity);
            self.unpublished.push(Unpublished { device, identity, why });
        };
        // The host itself: `publish_host` is about it.
        if endpoint.role == Role::Netdev && *identity == Identity::HOST {
            return;
        }
        if let Some(why) = refusal(endpoint, range) {
            return leave_out(why);
        }
        for own in &endpoint.prefixes {
            leave_out(format!(
                "{own} is a prefix, and only addresses are published: a later Cilium reads a prefix as its base address"
            ));
        }
        let (fit, unfit): (Vec<IpAddr>, Vec<IpAddr>) =
            endpoint.hosts.iter().partition(|address| !is_local(address.to_canonical()));
        for address in unfit {
            leave_out(format!("{address} means nothing to other hosts"));
        }
        for address in fit {
            let id = endpoint.id.get().into();
            self.add_line(address, *identity, device.clone(), endpoint.birth, id, config);
        }
    }

    fn add_line(
        &mut self,
        address: IpAddr,
        identity: Identity,
        device: String,
        birth: u64,
        endpoint: u32,
        config: &Config,
    ) {
        // As its text is, by which the key is called.
        let address = address.to_canonical();
        let pair = Pair {
            ip: address,
            mask: None,
            host_ip: config.host_ip,
            id: identity.0,
            key: 0,
            metadata: metadata(&config.node, endpoint).into(),
        };
        let line = Line { identity, device, birth, value: pair.write() };
        self.lines.entry(address).or_insert(line);
    }
}

/// Why no other host is to know an endpoint.
fn refusal(endpoint: &LocalEndpoint, range: &Range) -> Option<String> {
    let identity = endpoint.identity;
    let has_labels = !endpoint.labels.0.is_empty();
    if OF_OPERATORS.contains(&identity.0) || has_labels && range.contains(identity.0) {
        return None;
    }
    Some(match identity {
        Identity::INIT if endpoint.is_by_labels => {
            "its labels have no number yet: etcd has not told one".to_owned()
        }
        _ if range.contains(identity.0) => {
            "its number is the cluster's, but nobody has said for which labels: attach it with --labels".to_owned()
        }
        _ => format!(
            "identity {identity} is not the cluster's ({} to {}), and other hosts refuse it: attach it with --labels, or with \
             --id of 128 to 255",
            range.first, range.last
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::cilium::accept::Limits;
    use crate::config::Sweep;

    fn config() -> Config {
        Config {
            name: "edge".to_owned(),
            id: 2,
            max_clusters: 255,
            node: "n1".to_owned(),
            etcd: PathBuf::new(),
            remotes: None,
            publish: true,
            publish_host: true,
            host_ip: None,
            lease: Duration::from_secs(900),
            stale: Duration::from_secs(3600),
            sweep: Sweep { share: 50, lines: 100 },
            limits: Limits { ipv4: 8, ipv6: 16 },
            ipcache_entries: None,
            collect_garbage: true,
            resolve: BTreeMap::new(),
        }
    }

    fn endpoint(id: u16, identity: u32, labels: &str, hosts: &[&str]) -> LocalEndpoint {
        LocalEndpoint {
            id: EndpointId::new(id).unwrap(),
            birth: 40 + u64::from(id),
            device: format!("ve-{id}"),
            role: Role::Container,
            identity: Identity(identity),
            hosts: hosts.iter().map(|it| it.parse().unwrap()).collect(),
            prefixes: Vec::new(),
            labels: labels.parse().unwrap(),
            is_by_labels: !labels.is_empty(),
            on_device: Vec::new(),
            netns: 0,
            ifindex: 7,
        }
    }

    fn wanted(endpoints: Vec<LocalEndpoint>) -> Wanted {
        Wanted::of(&Local { endpoints, nics: BTreeMap::new() }, &config())
    }

    /// The address, the number, and the birth of each line.
    fn lines(wanted: &Wanted) -> Vec<(String, u32, u64)> {
        let line =
            |(address, line): (&IpAddr, &Line)| (address.to_string(), line.identity.0, line.birth);
        wanted.lines.iter().map(line).collect()
    }

    #[test]
    fn numbers_of_the_cluster_take_labels_and_those_of_operators_none() {
        for (identity, labels, why) in [
            (131_072, "app=web", ""),
            (196_607, "app=web", ""),
            (128, "", ""),
            (255, "app=web", ""),
            (131_072, "", "attach it with --labels"),
            (131_071, "app=web", "131072 to 196607"),
            (196_608, "app=web", "131072 to 196607"),
            (256, "app=web", "identity 256 is not the cluster's"),
            (127, "", "--id of 128 to 255"),
            (5, "app=web", "no number yet"),
        ] {
            let wanted = wanted(vec![endpoint(7, identity, labels, &["10.0.0.1"])]);
            let whys: Vec<&str> = wanted.unpublished.iter().map(|it| it.why.as_str()).collect();
            match why {
                "" => assert_eq!((lines(&wanted).len(), whys), (1, vec![]), "{identity}"),
                _ => assert!(lines(&wanted).is_empty() && whys[0].contains(why), "{whys:?}"),
            }
        }
    }

    #[test]
    fn a_value_is_as_ciliums_agents_write_it() {
        let wanted = wanted(vec![endpoint(7, 131_073, "app=web", &["10.0.0.1"])]);
        let value = &wanted.lines.values().next().unwrap().value;
        let expected = r#"{"IP":"10.0.0.1","Mask":null,"HostIP":"","ID":131073,"Key":0,"Metadata":"cilium-global:default:n1:7"}"#;
        assert_eq!(value, expected);
    }

    #[test]
    fn prefixes_and_what_is_no_hosts_alone_are_left_out_with_a_reason() {
        let hosts = ["10.0.0.1", "fe80::1", "169.254.0.1", "127.0.0.1", "::ffff:10.0.0.2"];
        let mut red = endpoint(7, 200, "", &hosts);
        red.prefixes = vec!["10.8.0.0/24".parse().unwrap()];
        let wanted = wanted(vec![red]);
        let there = ["10.0.0.1", "10.0.0.2"].map(|it| (it.to_owned(), 200, 47));
        assert_eq!(lines(&wanted), there);
        assert_eq!(wanted.unpublished.len(), 4);
    }

    #[test]
    fn of_endpoints_that_share_an_address_the_lowest_number_counts() {
        let [red, blue] = [3, 5].map(|id| endpoint(id, 200, "", &["10.0.0.1"]));
        assert_eq!(lines(&wanted(vec![red, blue])), [("10.0.0.1".to_owned(), 200, 43)]);
    }

    #[test]
    fn a_host_is_a_remote_node_to_others_if_that_is_asked_for() {
        let mut nic = endpoint(9, 1, "", &["192.0.2.1"]);
        nic.role = Role::Netdev;
        let nics = ["192.0.2.1", "192.0.2.2"].map(|it| (it.parse().unwrap(), Some(nic.id)));
        let local = Local { endpoints: vec![nic], nics: BTreeMap::from(nics) };
        let told = Wanted::of(&local, &config());
        let there = ["192.0.2.1", "192.0.2.2"].map(|it| (it.to_owned(), 6, 49));
        assert_eq!(lines(&told), there);
        let told = Wanted::of(&local, &Config { publish_host: false, ..config() });
        assert_eq!(told, Wanted::default());
    }
}
