//! What cleaning up needs of a configuration. A mistake in what it asks for, or a version that is not spoken, keeps nobody
//! from that.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::config::{named, object, version, wrong};
use super::{Error, Version};

/// Where the pins lie, if the configuration says it so that it can be read.
pub fn bpffs(config: &[u8]) -> Option<PathBuf> {
    let config: Value = serde_json::from_slice(config).ok()?;
    let path = PathBuf::from(config.get("bpffs")?.as_str()?);
    path.is_absolute().then_some(path)
}

/// Fails if the configuration is no JSON object, so that nobody knows what it has said of the pins.
pub fn check_readable(config: &[u8]) -> Result<(), Error> {
    object(config).map(|_| ())
}

/// The attachments of a network that are still valid.
#[derive(Debug)]
pub struct Valid {
    /// The network.
    pub network: String,
    /// Container, and name of the device inside.
    pub attachments: Vec<(String, String)>,
}

/// The key of the list, and that which the specification once had by mistake, and which runtimes send, too.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

impl Valid {
    /// Of the configuration that GC gets. Without the list it is an error: that all is to go has to be said.
    pub fn of(config: &[u8]) -> Result<Valid, Error> {
        #[derive(Deserialize)]
        struct Attachment {
            #[serde(rename = "containerID")]
            container: String,
            ifname: String,
        }

        let config = object(config)?;
        version(&config)?.check_has("GC", Version::V1_1_0)?;
        let network = named(&config, "name")?;
        let Some((key, list)) = KEYS.iter().find_map(|key| Some((key, config.get(*key)?))) else {
            let details = "it is missing; GC takes off all that it does not list, so that a list of none has to be there";
            return Err(wrong(format!("network {network}: `{}`", KEYS[0]), details));
        };
        // To a runtime in Go an empty list may be null.
        let list = Option::<Vec<Attachment>>::deserialize(list);
        let list = list.map_err(|error| wrong(format!("network {network}: `{key}`"), error))?;
        let attachments =
            list.unwrap_or_default().into_iter().map(|it| (it.container, it.ifname)).collect();
        Ok(Valid { network, attachments })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::cni::Code;

    fn valid(config: Value) -> Result<Valid, Error> {
        Valid::of(config.to_string().as_bytes())
    }

    #[test]
    fn the_directory_of_the_pins_is_read_from_any_configuration() {
        for (config, path) in [
            (json!({"bpffs": "/sys/fs/bpf/a", "ids": 3, "cniVersion": 1}), Some("/sys/fs/bpf/a")),
            (json!({"bpffs": "a"}), None),
            (json!({"bpffs": 3}), None),
            (json!([1]), None),
        ] {
            assert_eq!(bpffs(config.to_string().as_bytes()), path.map(PathBuf::from), "{config}");
        }
        assert_eq!(bpffs(b"{"), None);
    }

    #[test]
    fn either_key_lists_what_is_valid_and_null_is_nothing() {
        let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
        for key in KEYS {
            let config = json!({"cniVersion": "1.1.0", "name": "web", key: list, "rulez": 1});
            let valid = valid(config).unwrap();
            assert_eq!(valid.network, "web");
            assert_eq!(valid.attachments, [("c1".to_owned(), "eth0".to_owned())]);
        }
        let config = json!({"cniVersion": "1.1.0", "name": "web", KEYS[0]: null});
        assert!(valid(config).unwrap().attachments.is_empty());
    }

    #[test]
    fn without_a_list_or_with_another_one_nothing_goes() {
        for (key, value) in
            [("x", json!([])), (KEYS[0], json!([{"containerID": "c1"}])), (KEYS[0], json!("c1"))]
        {
            let error =
                valid(json!({"cniVersion": "1.1.0", "name": "web", key: value})).unwrap_err();
            assert_eq!(error.code, Code::InvalidConfiguration);
            assert!(error.msg.contains(KEYS[0]), "{error:?}");
        }
    }

    #[test]
    fn there_is_no_gc_before_its_version() {
        let config = json!({"cniVersion": "1.0.0", "name": "web", KEYS[0]: []});
        assert_eq!(valid(config).unwrap_err().code, Code::IncompatibleVersion);
    }
}
