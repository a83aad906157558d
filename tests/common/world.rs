//! A machine of its own for each test: network, mounts, bpffs. It vanishes with the test's thread,
//! and with it every device, pin and link.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cilmark::kernel::netns;
use cilmark::state::pin::Root;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::machine;
use super::process::{PATIENCE, Run, Running, cilmark, text};

/// The calling thread's own namespaces.
pub struct World {}

impl World {
    /// Moves the calling thread into fresh namespaces with bpffs, loopback up. `None`, loudly, if
    /// the test does not run as root.
    pub fn new() -> Option<World> {
        let world = World::without_bpffs()?;
        mount_fresh("bpf", "/sys/fs/bpf");
        Some(world)
    }

    /// The same for a test that is about TCX: `None`, loudly, if the kernel has none.
    pub fn with_tcx() -> Option<World> {
        let world = World::new()?;
        machine::has_tcx().then_some(world)
    }

    /// The same on a machine where nobody has mounted bpffs.
    pub fn without_bpffs() -> Option<World> {
        if !machine::is_root() {
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("unshare");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make / private");
        mount_fresh("sysfs", "/sys");
        fs::create_dir_all("/run/netns").expect("create /run/netns");
        mount_fresh("tmpfs", "/run/netns");
        let world = World {};
        world.sh("ip link set lo up");
        Some(world)
    }

    /// Where cilmark keeps its pins by default.
    pub fn root(&self) -> Root {
        Root::new(PathBuf::from("/sys/fs/bpf/cilmark"))
    }

    /// Runs a shell command that must succeed; its stdout.
    pub fn sh(&self, command: &str) -> String {
        let output = self.try_sh(command);
        assert!(output.status.success(), "`{command}` failed: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a shell command.
    pub fn try_sh(&self, command: &str) -> Output {
        Command::new("sh").args(["-ec", command]).output().expect("run sh")
    }

    /// Starts a shell command and leaves it running; it is killed with the guard.
    pub fn spawn(&self, command: &str) -> Running {
        Running::start(Command::new("sh").args(["-ec", &format!("exec {command}")]))
    }

    /// Runs `action` inside a namespace.
    pub fn inside<T: Send>(&self, namespace: &str, action: impl FnOnce() -> T + Send) -> T {
        let enter = || netns::enter(namespace).expect("enter the namespace");
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter();
                action()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sends a frame as it is from a device of a namespace.
    pub fn send_frame(&self, namespace: &str, device: &str, frame: &[u8]) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace, "socat", "-u", "-"])
            .arg(format!("INTERFACE:{device}"))
            .stdin(Stdio::piped())
            .spawn()
            .expect("run socat");
        child.stdin.take().expect("a pipe").write_all(frame).expect("write to socat");
        assert!(child.wait().expect("wait").success(), "socat could not send");
    }

    /// Runs cilmark with arguments that are separated by spaces.
    pub fn cilmark(&self, arguments: &str) -> Run {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        cilmark(&arguments).output().expect("run cilmark").into()
    }

    /// The command as an ordinary user has it, who may not be able to enter the directory that it was built in.
    pub fn cilmark_of_a_user(&self, arguments: &[&str]) -> Command {
        let binary = env!("CARGO_BIN_EXE_cilmark");
        self.sh(&format!(
            "touch /run/netns/cilmark.binary
             mountpoint -q /run/netns/cilmark.binary || mount --bind '{binary}' /run/netns/cilmark.binary"
        ));
        let mut command = Command::new("/run/netns/cilmark.binary");
        command.args(arguments).env_clear().uid(65534).gid(65534);
        command
    }

    /// Starts cilmark and leaves it running; it is killed with the guard.
    pub fn start(&self, arguments: &str) -> Running {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        Running::start(&mut cilmark(&arguments))
    }

    /// Runs cilmark with something to read on stdin.
    pub fn cilmark_with_input(&self, arguments: &str, input: &str) -> Run {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let mut child = cilmark(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run cilmark");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("write to cilmark");
        child.wait_with_output().expect("wait").into()
    }

    /// Runs cilmark, which must succeed; its stdout.
    pub fn cilmark_ok(&self, arguments: &str) -> String {
        let run = self.cilmark(arguments);
        assert_eq!(run.status, Some(0), "`cilmark {arguments}` failed: {}", run.stderr);
        run.stdout
    }

    /// Runs cilmark with `--json`; what it printed.
    pub fn cilmark_json(&self, arguments: &str) -> Value {
        let stdout = self.cilmark_ok(&format!("{arguments} --json"));
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error} in {stdout}"))
    }

    /// A workload: namespace `name`, in it `eth0` with the addresses, here the veth `name` with
    /// the gateways 10.N.0.1 and fd00:N::1, where N is the third argument. Its own addresses are
    /// 10.N.0.10 and fd00:N::10. Forwarding is on.
    pub fn workload(&self, name: &str, number: u8) {
        self.workload_as(name, number, "");
    }

    /// The same with options for the device here.
    pub fn workload_as(&self, name: &str, number: u8, options: &str) {
        // A router whose own link-local address may still be a duplicate asks for no neighbour.
        self.sh(&format!(
            "sysctl -qw net.ipv6.conf.default.accept_dad=0
             ip netns add {name}
             ip link add {name} {options} type veth peer name eth0 netns {name}"
        ));
        self.address(name, number);
        // Until the kernel has noticed the carrier, both ends lose what they send.
        let ends = format!("ip -br link show dev {name}; ip -n {name} -br link show dev eth0");
        wait_for("the carrier", || self.sh(&ends).matches(" UP ").count() == 2);
    }

    /// The addresses of a workload, and the routes to it and from it.
    fn address(&self, name: &str, number: u8) {
        self.sh(&format!(
            "ip addr add 10.{number}.0.1/24 dev {name}
             ip addr add fd00:{number}::1/64 dev {name} nodad
             ip link set {name} up
             ip -n {name} link set lo up
             ip -n {name} addr add 10.{number}.0.10/24 dev eth0
             ip -n {name} addr add fd00:{number}::10/64 dev eth0 nodad
             ip -n {name} link set eth0 up
             ip -n {name} route add default via 10.{number}.0.1
             ip -n {name} -6 route add default via fd00:{number}::1
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
        ));
    }

    /// What a virtual machine has: namespace `name`, in it `eth0`, a tap or a tun, here the device
    /// `name` that its packets come out of; with the addresses of [`World::workload`]. A `ppp` is a tun that says that
    /// it is a PPP device.
    pub fn machine(&self, name: &str, number: u8, kind: &str) -> [Running; 2] {
        self.sh(&format!("ip netns add {name}"));
        let socket = format!("/run/netns/{name}.socket,socktype=5");
        let (kind, options, is_there) = match kind {
            // TUNSETLINK and ARPHRD_PPP; of a device that is up the kernel takes no type.
            "ppp" => ("tun", "ioctl-int=0x400454cd:512", "link/ppp"),
            kind => (kind, "iff-up", "UP"),
        };
        let device =
            |name: &str| format!("TUN,tun-type={kind},tun-name={name},{options},iff-no-pi");
        let there = self
            .spawn(&format!("ip netns exec {name} socat {} UNIX-LISTEN:{socket}", device("eth0")));
        wait_for("the socket", || fs::exists(format!("/run/netns/{name}.socket")).unwrap());
        let here = self.spawn(&format!("socat {} UNIX-CONNECT:{socket}", device(name)));
        wait_for("the device", || {
            self.try_sh(&format!("ip link show dev {name} | grep -q {is_there}")).status.success()
        });
        self.address(name, number);
        [there, here]
    }

    /// A veth and its other end NAME-peer, both here and up: enough to attach to.
    pub fn veth(&self, name: &str) {
        self.sh(&format!(
            "ip link add {name} type veth peer name {name}-peer
             ip link set {name} up
             ip link set {name}-peer up"
        ));
    }

    /// What `status --json` says of one endpoint.
    pub fn status(&self, device: &str) -> Value {
        let mut lines = self.cilmark_json(&format!("status {device}"));
        lines[0].take()
    }

    /// The number of the program behind the pin of an endpoint's hook, as bpftool tells it.
    pub fn program_id(&self, pin: &str) -> u64 {
        let link = self.try_sh(&format!("bpftool -j link show pinned {pin}"));
        let program = || self.sh(&format!("bpftool -j prog show pinned {pin}"));
        let answer = if link.status.success() { text(&link.stdout) } else { program() };
        let answer: Value = serde_json::from_str(&answer).expect("JSON of bpftool");
        answer.get("prog_id").or(answer.get("id")).and_then(Value::as_u64).expect("a program id")
    }

    /// Waits until the kernel has let go of a program, which it does once nothing uses it.
    pub fn program_goes(&self, id: u64) {
        wait_for("the program to go", || {
            !self.try_sh(&format!("bpftool prog show id {id}")).status.success()
        });
    }

    /// All that is pinned, by paths below /sys/fs/bpf, sorted; without the kernel's own iterators.
    pub fn pins(&self) -> Vec<String> {
        let found =
            self.sh("cd /sys/fs/bpf && find . ! -name . ! -name '*.debug' | cut -c 3- | sort");
        found.lines().map(str::to_owned).collect()
    }
}

/// How often a condition is looked at.
const POLL: Duration = Duration::from_micros(500);

/// Waits until `condition` holds; fails if it takes too long. Polls, because what it waits for (a process, the kernel) has
/// no other way to tell, and leaves the CPU to that meanwhile.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}

pub fn mount_fresh(file_system: &str, at: &str) {
    mount(Some(file_system), at, Some(file_system), MsFlags::empty(), None::<&str>)
        .unwrap_or_else(|error| panic!("mount {file_system} at {at}: {error}"));
}
