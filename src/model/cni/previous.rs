//! What the plugin before in the chain has answered.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use serde_json::{Map, Value};

use super::Version;

/// A result, in the version of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Previous(Map<String, Value>);

impl Previous {
    /// Of `prevResult`. If it is in another version it is put into this one, and otherwise left as it is.
    pub fn of(result: Value, version: Version) -> Result<Previous> {
        let Value::Object(mut result) = result else {
            bail!("{result} is no result of a plugin, which is an object");
        };
        let of: Option<Version> = match result.get("cniVersion") {
            None => None,
            Some(Value::String(text)) => Some(text.parse()?),
            Some(other) => bail!("its cniVersion {other} is no text"),
        };
        if of != Some(version) {
            result.insert("cniVersion".to_owned(), Value::from(version.name()));
            let ips = result.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten();
            for ip in ips {
                put_into(ip, version)?;
            }
        }
        let previous = Previous(result);
        // What can't be read is an error now, not in the midst of things.
        previous.each_address()?;
        Ok(previous)
    }

    /// As it goes to stdout.
    pub fn json(self) -> Value {
        Value::Object(self.0)
    }

    /// The addresses that the device of this name has inside: those that are said to be another device's are left out.
    pub fn addresses_of(&self, ifname: &str) -> Result<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        for (address, interface) in self.each_address()? {
            if interface.is_none_or(|it| is_inside(it, ifname)) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// Each with its interface, if that is named.
    fn each_address(&self) -> Result<Vec<(IpAddr, Option<&Value>)>> {
        let ips = self.list("ips")?;
        let interfaces = self.list("interfaces")?;
        let read = |ip: &Value| -> Result<_> {
            let net: IpNet = ip
                .get("address")
                .and_then(Value::as_str)
                .with_context(|| format!("its address {ip} has no `address`"))?
                .parse()
                .with_context(|| format!("its address {ip}"))?;
            let interface = match ip.get("interface").filter(|it| !it.is_null()) {
                None => None,
                Some(number) => {
                    let index = number.as_u64().and_then(|it| usize::try_from(it).ok());
                    let interface = index.and_then(|it| interfaces.get(it));
                    Some(interface.with_context(|| {
                        format!("its address {ip} names an interface that is not there")
                    })?)
                }
            };
            Ok((net.addr(), interface))
        };
        ips.iter().map(read).collect()
    }

    fn list(&self, key: &str) -> Result<&[Value]> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => bail!("its `{key}` is {other}, and no list"),
        }
    }
}

fn is_inside(interface: &Value, ifname: &str) -> bool {
    let text = |key| interface.get(key).and_then(Value::as_str).unwrap_or_default();
    text("name") == ifname && !text("sandbox").is_empty()
}

/// Before 1.0.0 an address has a version of its own.
fn put_into(ip: &mut Value, version: Version) -> Result<()> {
    let address = ip.get("address").and_then(Value::as_str).unwrap_or_default();
    let family = if address.contains(':') { "6" } else { "4" };
    ensure!(ip.is_object(), "its address {ip} is no object");
    if let Value::Object(ip) = ip {
        match version < Version::V1_0_0 {
            true => _ = ip.entry("version").or_insert_with(|| Value::from(family)),
            false => _ = ip.remove("version"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As the bridge plugin answers.
    fn bridged(version: &str) -> Value {
        json!({
            "cniVersion": version,
            "interfaces": [{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/c1"}],
            "ips": [
                {"address": "10.1.0.10/24", "interface": 2, "gateway": "10.1.0.1"},
                {"address": "fd00::10/64", "interface": 2},
                {"address": "10.1.0.1/24", "interface": 0},
            ],
            "dns": {"nameservers": ["192.0.2.53"]},
            "x-other": {"kept": 1},
        })
    }

    fn addresses(result: Value, ifname: &str) -> Vec<String> {
        let previous = Previous::of(result, Version::V1_0_0).unwrap();
        previous.addresses_of(ifname).unwrap().iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn in_its_own_version_it_is_left_as_it_is() {
        for version in Version::ALL {
            let mut result = bridged(version.name());
            result["ips"][0]["version"] = json!("what");
            assert_eq!(Previous::of(result.clone(), *version).unwrap().json(), result);
        }
    }

    #[test]
    fn in_another_version_it_is_put_into_the_configurations() {
        let old = Previous::of(bridged("1.1.0"), Version::V0_4_0).unwrap().json();
        assert_eq!((&old["cniVersion"], &old["ips"][0]["version"]), (&json!("0.4.0"), &json!("4")));
        assert_eq!(old["ips"][1]["version"], "6");
        let mut new = Previous::of(old, Version::V1_0_0).unwrap().json();
        assert_eq!(new, bridged("1.0.0"));
        new.as_object_mut().unwrap().remove("cniVersion");
        assert_eq!(Previous::of(new, Version::V1_0_0).unwrap().json(), bridged("1.0.0"));
    }

    #[test]
    fn the_addresses_are_those_of_the_device_inside() {
        assert_eq!(addresses(bridged("1.0.0"), "eth0"), ["10.1.0.10", "fd00::10"]);
        assert_eq!(addresses(bridged("1.0.0"), "cni0"), [""; 0], "a device of the host");
        assert_eq!(addresses(bridged("1.0.0"), "net1"), [""; 0]);
        assert_eq!(addresses(json!({"ips": [{"address": "10.1.0.10/32"}]}), "eth0"), ["10.1.0.10"]);
        assert_eq!(addresses(json!({}), "eth0"), [""; 0]);
    }

    #[test]
    fn what_is_no_result_is_an_error() {
        for (result, word) in [
            (json!("x"), "no result"),
            (json!({"cniVersion": "0.2.0"}), "0.2.0"),
            (json!({"cniVersion": 1}), "no text"),
            (json!({"ips": {}}), "no list"),
            (json!({"ips": [1]}), "no object"),
            (json!({"ips": [{}]}), "no `address`"),
            (json!({"ips": [{"address": "x"}]}), "address"),
            (json!({"ips": [{"address": "10.0.0.1/8", "interface": 0}]}), "not there"),
        ] {
            let error = Previous::of(result.clone(), Version::V1_0_0).expect_err("an error");
            assert!(format!("{error:#}").contains(word), "{result}: {error:#}");
        }
    }
}
