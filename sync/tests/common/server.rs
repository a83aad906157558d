//! etcd itself.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cilmark_sync::etcd::{Client, Resolve};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::certificates::Authority;
use super::directory::Directory;
use super::machine::{run, until};

/// A client file for TLS, but for its endpoints.
pub const TLS: &str = "trusted-ca-file: /var/lib/etcd-secrets/ca.crt
cert-file: /var/lib/etcd-secrets/client.crt
key-file: /var/lib/etcd-secrets/client.key
";

/// A member of a store. It ends with this guard, and its data with it.
pub struct Etcd {
    /// Its data, its certificates, and the files of its clients.
    pub directory: Directory,
    running: Running,
    ip: String,
    scheme: &'static str,
    /// All but where its data is and the store's token.
    arguments: Vec<String>,
    store: u32,
}

impl Etcd {
    /// The only member of its store, which answers.
    pub async fn start() -> Etcd {
        Etcd::start_with(&[]).await
    }

    /// The same with more arguments.
    pub async fn start_with(more: &[&str]) -> Etcd {
        let etcd = Etcd::member(1, 1, Directory::new(), "http", more);
        etcd.wait().await;
        etcd
    }

    /// The same by TLS alone. It has a certificate with these names; who comes needs one of the same authority, as
    /// `client.crt` is, which is that of `root`.
    pub async fn start_with_tls(authority: &Authority, names: &[&str]) -> Etcd {
        let directory = Directory::new();
        authority.write(&directory);
        authority.issue(&directory, "server", "etcd", names);
        authority.issue(&directory, "client", "root", &[]);
        let path = directory.path().display().to_string();
        let more = [
            format!("--cert-file={path}/server.crt"),
            format!("--key-file={path}/server.key"),
            format!("--trusted-ca-file={path}/ca.crt"),
        ];
        let mut more: Vec<&str> = more.iter().map(String::as_str).collect();
        more.extend(["--client-cert-auth", "--enable-grpc-gateway=false"]);
        let etcd = Etcd::member(1, 1, directory, "https", &more);
        until("etcd answers etcdctl", async || {
            etcd.try_ctl("get k").output().is_ok_and(|it| it.status.success())
        })
        .await;
        etcd
    }

    /// The members of a store of so many, which answer.
    pub async fn start_many(count: u8) -> Vec<Etcd> {
        let member = |number| Etcd::member(number, count, Directory::new(), "http", &[]);
        let members: Vec<Etcd> = (1..=count).map(member).collect();
        for member in &members {
            member.wait().await;
        }
        members
    }

    fn member(
        number: u8,
        count: u8,
        directory: Directory,
        scheme: &'static str,
        more: &[&str],
    ) -> Etcd {
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
            "--logger=zap".to_owned(),
            "--log-level=error".to_owned(),
        ];
        if count == 1 {
            // It elects itself without a wait.
            arguments.push("--heartbeat-interval=10".to_owned());
            arguments.push("--election-timeout=100".to_owned());
        }
        arguments.extend(more.iter().map(|one| (*one).to_owned()));
        let running = start(&arguments, &directory.path().join("0"), 0);
        Etcd { directory, running, ip, scheme, arguments, store: 0 }
    }

    /// Where its client finds it.
    pub fn url(&self) -> String {
        format!("{}://{}:2379", self.scheme, self.ip)
    }

    /// A client of it alone; with TLS that of `client.crt`.
    pub fn client(&self) -> Client {
        let tls = if self.scheme == "https" { TLS } else { "" };
        self.client_by(&format!("endpoints: ['{}']\n{tls}", self.url()), &[])
    }

    /// A client by what a client file says, and addresses of names.
    pub fn client_by(&self, text: &str, resolve: &[(&str, &str)]) -> Client {
        let file = self.directory.write("client.yaml", text);
        let resolve: Resolve = resolve
            .iter()
            .map(|(name, address)| ((*name).to_owned(), address.parse().expect("an address")))
            .collect();
        Client::new(&file, &resolve).expect("a client")
    }

    /// Waits until it answers.
    pub async fn wait(&self) {
        let client = self.client();
        until("etcd answers", async || client.header().await.is_ok()).await;
    }

    /// What etcdctl prints, given arguments that are separated by spaces; as `root`.
    pub fn ctl(&self, arguments: &str) -> String {
        run(&mut self.try_ctl(arguments))
    }

    /// etcdctl with arguments that are separated by spaces, as `root`.
    pub fn try_ctl(&self, arguments: &str) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.url()));
        if self.scheme == "https" {
            let path = self.directory.path().display();
            command.args([
                format!("--cacert={path}/ca.crt"),
                format!("--cert={path}/client.crt"),
                format!("--key={path}/client.key"),
            ]);
        }
        command.args(arguments.split_whitespace());
        command
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Ends it, and starts it again with the data that it has.
    pub fn start_again(&mut self) {
        self.kill();
        self.running = start(&self.arguments, &self.data(), self.store);
    }

    /// Ends it, and starts another store in its place.
    pub fn replace(&mut self) {
        self.store += 1;
        self.start_again();
    }

    /// Where its data is.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join(self.store.to_string())
    }

    /// Stops it, connections and all, or has it go on.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.running.0.id() as i32), signal).expect("send a signal");
    }
}

fn start(arguments: &[String], data: &Path, store: u32) -> Running {
    let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(data);
    made.expect("make a directory");
    let mut etcd = Command::new("etcd");
    etcd.args(arguments);
    etcd.arg(format!("--data-dir={}", data.display()));
    etcd.arg(format!("--initial-cluster-token={store}"));
    Running::start(&etcd)
}

/// A process that ends with this guard.
pub struct Running(Child);

impl Running {
    /// It ends with the test's thread, too, however that ends.
    fn start(command: &Command) -> Running {
        let mut wrapped = Command::new("setpriv");
        wrapped.arg("--pdeathsig=KILL").arg(command.get_program()).args(command.get_args());
        // What it has to say is not about the claim.
        wrapped.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(wrapped.spawn().expect("run setpriv"))
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
