//! What tests do with a store, by etcdctl and with the certificate of `root`.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::store::Store;
use crate::common::process::Run;

/// A key and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: String,
    /// The lease that it goes with; 0 is none.
    pub lease: i64,
    /// The revision that has made it.
    pub created: i64,
    /// The revision that has written it last.
    pub modified: i64,
}

/// A change of a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    Put(String, String),
    Delete(String),
}

pub const ETCDCTL: &str = "/usr/bin/etcdctl";

/// As many changes etcd takes in a transaction, unless it is told otherwise.
const MOST_OPS: usize = 128;

impl Store<'_> {
    /// A command that has to be completed by what it is to do.
    pub fn etcdctl(&self) -> Command {
        self.etcdctl_of(&self.running())
    }

    /// The same, for members that listen there.
    pub fn etcdctl_of(&self, endpoints: &[String]) -> Command {
        let authority = &self.lab.authority;
        let mut command = Command::new(ETCDCTL);
        command
            .env_clear()
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", endpoints.join(","))
            .env("ETCDCTL_CACERT", authority.authority_file())
            .env("ETCDCTL_CERT", authority.certificate_file("root"))
            .env("ETCDCTL_KEY", authority.key_file("root"));
        command
    }

    /// Runs it; its stdout.
    pub fn etcdctl_ok<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        let mut command = self.etcdctl();
        let run: Run = command.args(arguments).output().expect("run etcdctl").into();
        assert_eq!(run.status, Some(0), "{command:?} failed: {}", run.stderr);
        run.stdout
    }

    fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Value {
        let stdout = self.etcdctl_ok(["-w", "json"].into_iter().chain(arguments));
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    }

    /// Writes a key without a lease.
    pub fn put(&self, key: &str, value: &str) {
        self.etcdctl_ok(["put", "--", key, value]);
    }

    /// Writes a key with a lease.
    pub fn put_with_lease(&self, key: &str, value: &str, lease: i64) {
        self.etcdctl_ok(["put", &format!("--lease={lease:x}"), "--", key, value]);
    }

    /// Makes changes, as many at a revision as etcd takes.
    pub fn change(&self, ops: &[Op]) {
        for ops in ops.chunks(MOST_OPS) {
            // A string of JSON is one of Go.
            let quote = |text: &str| Value::from(text).to_string();
            let lines = ops.iter().map(|op| match op {
                Op::Put(key, value) => format!("put {} {}\n", quote(key), quote(value)),
                Op::Delete(key) => format!("del {}\n", quote(key)),
            });
            let script = format!("\n{}\n\n", lines.collect::<String>());
            let mut command = self.etcdctl();
            let mut child = command
                .arg("txn")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("run etcdctl");
            child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("write");
            let run: Run = child.wait_with_output().expect("wait").into();
            assert!(run.stdout.starts_with("SUCCESS"), "{script}: {run:?}");
        }
    }

    /// The keys with a prefix.
    pub fn list(&self, prefix: &str) -> Vec<Entry> {
        entries(&self.json(["get", "--prefix", "--", prefix])["kvs"])
    }

    /// One key.
    pub fn get(&self, key: &str) -> Option<Entry> {
        entries(&self.json(["get", "--", key])["kvs"]).pop()
    }

    /// Deletes a key, which must be there.
    pub fn delete(&self, key: &str) {
        assert_eq!(self.etcdctl_ok(["del", "--", key]).trim(), "1", "no key {key}");
    }

    /// Deletes all keys with a prefix.
    pub fn empty(&self, prefix: &str) {
        self.etcdctl_ok(["del", "--prefix", "--", prefix]);
    }

    /// The revision now.
    pub fn revision(&self) -> i64 {
        let answer = self.json(["get", "--", "no such key"]);
        answer["header"]["revision"].as_i64().expect("a revision")
    }

    /// The store's number.
    pub fn number_of_store(&self) -> u64 {
        let answer = self.json(["get", "--", "no such key"]);
        answer["header"]["cluster_id"].as_u64().expect("the number of the store")
    }

    /// Forgets what was before the revision now.
    pub fn compact(&self) {
        self.etcdctl_ok(["compact", &self.revision().to_string()]);
    }

    /// A lease of so many seconds that nobody keeps.
    pub fn grant(&self, seconds: u32) -> i64 {
        let lease = self.json(["lease", "grant", &seconds.to_string()]);
        lease["ID"].as_i64().expect("the number of a lease")
    }

    /// Ends a lease.
    pub fn revoke(&self, lease: i64) {
        self.etcdctl_ok(["lease", "revoke", &format!("{lease:x}")]);
    }
}

/// Of an answer of etcdctl.
fn entries(kvs: &Value) -> Vec<Entry> {
    kvs.as_array().into_iter().flatten().map(entry).collect()
}

/// Of etcd's `KeyValue`, whose fields that are 0 or empty etcdctl leaves out.
pub fn entry(kv: &Value) -> Entry {
    let text = |field: &str| {
        let bytes = BASE64_STANDARD.decode(kv[field].as_str().unwrap_or_default());
        String::from_utf8_lossy(&bytes.expect("base64")).into_owned()
    };
    let number = |field: &str| kv[field].as_i64().unwrap_or_default();
    Entry {
        key: text("key"),
        value: text("value"),
        lease: number("lease"),
        created: number("create_revision"),
        modified: number("mod_revision"),
    }
}
