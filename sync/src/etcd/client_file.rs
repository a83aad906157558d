//! The client file that Cilium mounts: etcd's own clientv3 format, YAML.

use std::path::PathBuf;

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
}
