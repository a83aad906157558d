//! Certificates as Cilium's chart makes them: etcd takes a client's common name as its user.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The names of the server of Cilium's clustermesh-apiserver (its chart, clustermesh-apiserver/tls).
const OF_SERVER: [&str; 5] = [
    "clustermesh-apiserver.cilium.io",
    "*.mesh.cilium.io",
    "clustermesh-apiserver.kube-system.svc",
    "127.0.0.1",
    "::1",
];

/// Whom all of a lab believe, and the directory with what it has signed: `ca.crt`, and `NAME.crt` and `NAME.key`.
pub struct Authority {
    directory: PathBuf,
    issuer: Mutex<Issuer<'static, KeyPair>>,
    signed: Mutex<BTreeMap<String, Subject>>,
}

#[derive(Clone)]
struct Subject {
    common_name: String,
    alternatives: Vec<String>,
}

impl Authority {
    /// A new one.
    pub fn new(directory: &Path) -> Authority {
        fs::create_dir_all(directory).expect("create the directory of certificates");
        let issuer = Mutex::new(issuer(directory));
        Authority { directory: directory.into(), issuer, signed: Mutex::default() }
    }

    /// A server's certificate, with the names that Cilium's have, and these addresses.
    pub fn sign_server(&self, name: &str, addresses: &[String]) {
        let names = OF_SERVER.into_iter().map(str::to_owned);
        let alternatives = names.chain(addresses.iter().cloned()).collect();
        self.sign(name, Subject { common_name: OF_SERVER[0].to_owned(), alternatives });
    }

    /// The certificate of a user of etcd.
    pub fn sign_client(&self, user: &str) {
        self.sign(user, Subject { common_name: user.to_owned(), alternatives: Vec::new() });
    }

    /// Makes all anew in the same files, its own certificate, too: nothing that was signed before is believed by who reads
    /// them now.
    pub fn rotate(&self) {
        *self.issuer.lock().expect("not poisoned") = issuer(&self.directory);
        let signed = self.signed.lock().expect("not poisoned").clone();
        for (name, subject) in signed {
            self.sign(&name, subject);
        }
    }

    fn sign(&self, name: &str, subject: Subject) {
        let key = KeyPair::generate().expect("a key");
        let params = params(&subject);
        let certificate =
            params.signed_by(&key, &*self.issuer.lock().expect("not poisoned")).expect("sign");
        fs::write(self.key_file(name), key.serialize_pem()).expect("write a key");
        fs::write(self.certificate_file(name), certificate.pem()).expect("write a certificate");
        self.signed.lock().expect("not poisoned").insert(name.to_owned(), subject);
    }

    /// Its own certificate.
    pub fn authority_file(&self) -> PathBuf {
        authority_file(&self.directory)
    }

    /// What it has signed for this name.
    pub fn certificate_file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.crt"))
    }

    /// The key of that.
    pub fn key_file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }
}

/// Makes an authority, and writes its certificate.
fn issuer(directory: &Path) -> Issuer<'static, KeyPair> {
    let common_name = "an authority".to_owned();
    let mut params = params(&Subject { common_name, alternatives: Vec::new() });
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("sign");
    fs::write(authority_file(directory), certificate.pem()).expect("write ca.crt");
    Issuer::new(params, key)
}

fn authority_file(directory: &Path) -> PathBuf {
    directory.join("ca.crt")
}

fn params(subject: &Subject) -> CertificateParams {
    let mut params = CertificateParams::new(subject.alternatives.clone()).expect("names");
    params.distinguished_name.push(DnType::CommonName, &subject.common_name);
    params
}
