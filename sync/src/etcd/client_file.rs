//! The client file that Cilium mounts: etcd's own clientv3 format, YAML.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;

/// The port of an endpoint that names none.
const PORT: u16 = 2379;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFile {
    /// `https://host:port`, or `http://…`.
    pub endpoints: Vec<String>,
    /// Whose certificates are believed.
    pub trusted_ca_file: Option<PathBuf>,
    /// This client's certificate, whose common name is its user.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Where the file lies.
    directory: PathBuf,
}

/// Keys that are not here mean nothing to a client of these: etcd's own ignores what it does not know, too.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Keys {
    #[serde(default)]
    endpoints: Vec<String>,
    trusted_ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    #[serde(default)]
    insecure_transport: bool,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    username: Option<String>,
    password: Option<String>,
}

impl ClientFile {
    /// Reads it; fails if it asks for what is not done here.
    pub fn read(path: &Path) -> Result<ClientFile> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("read the etcd client file {}", path.display()))?;
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        ClientFile::parse(&text, directory)
            .with_context(|| format!("etcd client file {}", path.display()))
    }

    pub(super) fn parse(text: &str, directory: PathBuf) -> Result<ClientFile> {
        // Without the text around the error: a password may be in it, and anybody may read what becomes of this error.
        let keys: Keys =
            serde_saphyr::from_str(text).map_err(|error| anyhow!("{}", error.without_snippet()))?;
        ensure!(
            !keys.insecure_skip_tls_verify,
            "insecure-skip-tls-verify would believe anybody, and write what they say into the ipcache; name the CA of \
             etcd's certificate as trusted-ca-file"
        );
        ensure!(
            [keys.username, keys.password].iter().flatten().all(String::is_empty),
            "username and password are not supported; a user is the common name of a client certificate (cert-file and \
             key-file, and etcd with --client-cert-auth)"
        );
        ensure!(
            !keys.endpoints.is_empty(),
            "endpoints: none; name at least one, such as https://192.0.2.1:2379"
        );
        ensure!(
            keys.cert_file.is_some() == keys.key_file.is_some(),
            "cert-file and key-file go together; one of them is missing"
        );
        let endpoints: Vec<String> = keys
            .endpoints
            .iter()
            .map(|endpoint| normal(endpoint, keys.insecure_transport))
            .collect::<Result<_>>()?;
        ensure!(
            keys.trusted_ca_file.is_some() || endpoints.iter().all(|one| one.starts_with("http:")),
            "trusted-ca-file is missing: it names the CA of etcd's certificate (what the system believes is in \
             /etc/ssl/certs/ca-certificates.crt)"
        );
        Ok(ClientFile {
            endpoints,
            trusted_ca_file: keys.trusted_ca_file,
            cert_file: keys.cert_file,
            key_file: keys.key_file,
            directory,
        })
    }

    /// What is in a file that this one names. Paths are those of the pod that Cilium mounts it into: what is not there
    /// is looked for beside this file by its base name.
    pub fn contents(&self, path: &Path) -> Result<Vec<u8>> {
        let named = self.directory.join(path);
        let beside = path.file_name().map(|name| self.directory.join(name));
        let read = match (fs::read(&named), beside) {
            (Err(error), Some(beside)) if error.kind() == io::ErrorKind::NotFound => {
                fs::read(beside).map_err(|_| error)
            }
            (read, _) => read,
        };
        read.with_context(|| format!("read {}", named.display()))
    }
}

/// An endpoint with its scheme and its port. The scheme of one that has none is by the transport.
fn normal(endpoint: &str, insecure: bool) -> Result<String> {
    let (scheme, rest) = match endpoint.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some((scheme, _)) => {
            bail!("endpoint {endpoint}: {scheme} is not supported; http and https are")
        }
        None if insecure => ("http", endpoint),
        None => ("https", endpoint),
    };
    ensure!(
        scheme == "http" || !insecure,
        "endpoint {endpoint} is https, but insecure-transport is true; take one of them out"
    );
    let authority = rest.split('/').next().unwrap_or_default();
    let uri: tonic::transport::Uri = format!("{scheme}://{authority}")
        .parse()
        .with_context(|| format!("endpoint {endpoint}: https://host:port is wanted"))?;
    let host = uri.host().unwrap_or_default();
    ensure!(!host.is_empty(), "endpoint {endpoint} has no host; https://host:port is wanted");
    Ok(format!("{scheme}://{host}:{}", uri.port_u16().unwrap_or(PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ClientFile> {
        ClientFile::parse(text, PathBuf::from("/etc/cilmark/clustermesh"))
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", parse(text).unwrap_err())
    }

    #[test]
    fn ciliums_file_is_read_and_keys_that_nobody_knows_are_ignored() {
        let file = parse(
            "endpoints:\n- https://c1.mesh.cilium.io:32379\n\
             ca-file: /old\n\
             trusted-ca-file: /var/lib/cilium/clustermesh/common-etcd-client-ca.crt\n\
             cert-file: /var/lib/cilium/clustermesh/common-etcd-client.crt\n\
             key-file: /var/lib/cilium/clustermesh/common-etcd-client.key\n\
             username: ''\ndial-timeout: 5\n",
        )
        .unwrap();
        assert_eq!(file.endpoints, ["https://c1.mesh.cilium.io:32379"]);
        let ca = "/var/lib/cilium/clustermesh/common-etcd-client-ca.crt";
        assert_eq!(file.trusted_ca_file, Some(PathBuf::from(ca)));
        assert!(file.cert_file.is_some() && file.key_file.is_some());
    }

    #[test]
    fn an_endpoint_without_scheme_or_port_gets_those_of_etcd() {
        let ca = "trusted-ca-file: ca.crt\n";
        let of = |text: &str| parse(text).unwrap().endpoints;
        assert_eq!(of(&format!("{ca}endpoints: [192.0.2.1]")), ["https://192.0.2.1:2379"]);
        assert_eq!(of("insecure-transport: true\nendpoints: ['[::1]:1']"), ["http://[::1]:1"]);
        assert_eq!(of("endpoints: ['http://h/']"), ["http://h:2379"]);
    }

    #[test]
    fn what_is_not_done_is_refused_with_a_cure() {
        let whole = "endpoints: [https://h:1]\ntrusted-ca-file: ca.crt\n";
        let with = |more: &str| refusal(&format!("{whole}{more}"));
        assert!(with("insecure-skip-tls-verify: true").contains("name the CA"));
        assert!(with("username: u\npassword: p").contains("common name"));
        assert!(with("cert-file: a.crt").contains("go together"));
        assert!(with("insecure-transport: true").contains("take one of them out"));
        assert!(refusal("endpoints: [https://h:1]").contains("trusted-ca-file is missing"));
        assert!(refusal("trusted-ca-file: ca.crt").contains("at least one"));
        assert!(refusal("endpoints: [unix:///run/etcd.sock]").contains("unix is not supported"));
        assert!(refusal("endpoints: ['http://:1']").contains("https://host:port"));
    }

    #[test]
    fn no_error_shows_what_stands_in_the_file() {
        for text in [
            "password: [secret\n",
            "password: {a: secret}\n",
            "endpoints: [h]\npassword: \"secret\n",
        ] {
            let refusal = refusal(text);
            assert!(!refusal.contains("secret"), "{refusal}");
            assert!(refusal.contains("line"), "{refusal}");
        }
    }

    #[test]
    fn a_file_that_is_not_where_it_is_named_is_read_beside() {
        let directory = std::env::temp_dir().join(format!("cilmark-beside-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("ca.crt"), "beside").unwrap();
        let file = ClientFile::parse("endpoints: [http://h]", directory.clone()).unwrap();
        let read = file.contents(Path::new("/not/there/ca.crt"));
        let missing = file.contents(Path::new("/not/there/other.crt"));
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(read.unwrap(), b"beside");
        assert!(format!("{:#}", missing.unwrap_err()).contains("/not/there/other.crt"));
    }
}
