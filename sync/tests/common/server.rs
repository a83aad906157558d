//! etcd itself.

use std::fs;
use std::process::{Child, Command, Stdio};

use cilmark_sync::etcd::{Client, Resolve};

use super::directory::Directory;
use super::machine::{run, until};

/// A member of a store. It ends with this guard, and its data with it.
pub struct Etcd {
    directory: Directory,
    child: Child,
    ip: String,
    scheme: &'static str,
}

impl Etcd {
    /// The only member of its store, which answers.
    pub async fn start() -> Etcd {
        let etcd = Etcd::member(1, 1, "http", &[]);
        etcd.wait().await;
        etcd
    }

    fn member(number: u8, count: u8, scheme: &'static str, more: &[String]) -> Etcd {
        let ip = format!("127.0.0.{number}");
        let all: Vec<String> =
            (1..=count).map(|one| format!("m{one}=http://127.0.0.{one}:2380")).collect();
        let mut arguments = vec![
            format!("--name=m{number}"),
            format!("--listen-client-urls={scheme}://{ip}:2379"),
            format!("--advertise-client-urls={scheme}://{ip}:2379"),
            format!("--listen-peer-urls=http://{ip}:2380"),
            format!("--initial-advertise-peer-urls=http://{ip}:2380"),
            format!("--initial-cluster={}", all.join(",")),
            "--log-level=error".to_owned(),
            "--logger=zap".to_owned(),
        ];
        arguments.extend_from_slice(more);
        let directory = Directory::new();
        let child = start(&arguments, &directory.path().join("0"), 0);
        Etcd { directory, child, ip, scheme }
    }

    /// Where its client finds it.
    pub fn url(&self) -> String {
        format!("{}://{}:2379", self.scheme, self.ip)
    }

    /// A client of it alone.
    pub fn client(&self) -> Client {
        self.client_by(&format!("endpoints: ['{}']\n", self.url()))
    }

    /// A client by what a client file says.
    pub fn client_by(&self, text: &str) -> Client {
        let file = self.directory.write("client.yaml", text);
        Client::new(&file, &Resolve::new()).expect("a client")
    }

    /// Waits until it answers.
    pub async fn wait(&self) {
        let client = self.client();
        until("etcd answers", async || client.header().await.is_ok()).await;
    }

    /// etcdctl with arguments that are separated by spaces.
    pub fn ctl(&self, arguments: &str) -> String {
        run(Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.url()))
            .args(arguments.split_whitespace()))
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(arguments: &[String], data: &std::path::Path, store: u32) -> Child {
    fs::create_dir_all(data).expect("make a directory");
    // It ends with the test's thread, however that ends.
    Command::new("setpriv")
        .args(["--pdeathsig=KILL", "etcd"])
        .args(arguments)
        .arg(format!("--data-dir={}", data.display()))
        .arg(format!("--initial-cluster-token={store}"))
        .stdin(Stdio::null())
        .spawn()
        .expect("run etcd")
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
