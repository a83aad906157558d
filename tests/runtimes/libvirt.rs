//! libvirt, with a guest of QEMU that emulates its CPU. The hook is installed by hand, as a package would.

use std::process::Command;

use super::{Host, Workload};
use crate::common::process::text;
use crate::common::world::wait_for;

/// Nothing here is systemd, and root's.
const CONFIG: &str = r#"
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"#;

const HOOK: &str = "#!/bin/sh\nexec /usr/bin/cilmark hook libvirt \"$@\"\n";

/// The guest's first program: what it sends first is the workload's.
const INIT: &str = "#!/bin/busybox sh
while read -r module; do /bin/busybox insmod /modules/$module; done </order
/bin/busybox ip addr add 10.80.0.10/24 dev eth0
/bin/busybox ip link set eth0 up
/bin/busybox ip route add default via 10.80.0.1
exec ";

/// A kernel that has what a guest needs as modules; scripts/vm-kernel fetches it once.
fn kernel() -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/vm-kernel");
    let output = Command::new(script).arg("6.1").output().expect("run vm-kernel");
    assert!(output.status.success(), "vm-kernel: {}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

pub struct Libvirt {
    pub host: Host,
    kernel: String,
}

impl Libvirt {
    pub fn new() -> Option<Libvirt> {
        let libvirt = Libvirt { host: Host::new()?, kernel: kernel() };
        let Libvirt { host, kernel } = &libvirt;
        host.write("/etc/libvirt/qemu.conf", CONFIG);
        host.write("/etc/libvirt/hooks/qemu.d/cilmark", HOOK);
        host.sh("chmod +x /etc/libvirt/hooks/qemu.d/cilmark
                 mkdir -p /var/log/libvirt /var/cache/libvirt
                 # libvirt-daemon-system makes that user, and libvirtd wants to know it.
                 if ! getent passwd libvirt-qemu; then
                   echo libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin >>/etc/passwd
                   echo libvirt-qemu:x:64055: >>/etc/group
                 fi >/dev/null");
        host.sh(&format!(
            "mkdir /var/host/image/modules
             version=$(ls {kernel}/lib/modules)
             for module in virtio_pci virtio_net; do
               modprobe -d {kernel} -S $version --show-depends $module
             done | sed -n 's/^insmod //p' | while read -r file; do
               cp $file /var/host/image/modules
               basename $file
             done | awk '!seen[$0]++' >/var/host/image/order"
        ));
        libvirt.start();
        Some(libvirt)
    }

    fn start(&self) {
        self.host.sh(
            "ip link add br0 type bridge; ip addr add 10.80.0.1/24 dev br0; ip link set br0 up",
        );
        self.start_daemon();
    }

    pub fn start_daemon(&self) {
        self.host.daemon("libvirtd", "virsh -q list");
    }

    /// Defines a guest with these keys in its metadata.
    fn define(&self, workload: &Workload, keys: &[(&str, String)]) {
        let element = |(key, value): &(&str, String)| {
            let name = key.replace("cilmark.", "cilmark:");
            format!("<{name}>{value}</{name}>")
        };
        let keys: String = keys.iter().map(element).collect();
        let metadata = match &keys[..] {
            "" => String::new(),
            keys => format!(
                "<metadata><cilmark:workload xmlns:cilmark='urn:cilmark'>{keys}\
                 <cilmark:ip>10.80.0.10</cilmark:ip></cilmark:workload></metadata>"
            ),
        };
        let init = format!("{INIT}{}\n", workload.command());
        let interface = "<interface type='bridge'><source bridge='br0'/>";
        self.define_guest(&workload.name, &init, &metadata, interface);
    }

    /// Defines a guest whose first program is a script, with an interface, an element that is not ended yet. What it writes
    /// to its console is in a file of its name in /var/host/log.
    pub fn define_guest(&self, name: &str, init: &str, metadata: &str, interface: &str) {
        let Libvirt { host, kernel } = self;
        host.write("/var/host/image/init", init);
        host.sh(&format!(
            "chmod +x /var/host/image/init; cd /var/host/image
             find . | busybox cpio -o -H newc -R 0:0 >/var/host/{name}.cpio 2>/dev/null"
        ));
        let image = self.host.sh(&format!("ls {kernel}/boot/vmlinuz-*"));
        let guest = format!(
            "<domain type='qemu'>
               <name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>{metadata}
               <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{}</kernel>
                 <initrd>/var/host/{name}.cpio</initrd><cmdline>console=ttyS0 quiet panic=-1</cmdline></os>
               <features><acpi/></features>
               <devices>
                 <emulator>/usr/bin/qemu-system-x86_64</emulator>
                 <serial type='file'><source path='/var/host/log/{name}'/><target port='0'/></serial>
                 {interface}<model type='virtio'/></interface>
                 <memballoon model='none'/>
               </devices>
             </domain>",
            image.trim()
        );
        host.write(&format!("/var/host/{name}.xml"), &guest);
        host.sh(&format!("virsh define /var/host/{name}.xml"));
    }

    fn is_off(&self, Workload { name, .. }: &Workload) -> bool {
        self.host.sh(&format!("virsh domstate {name}")).contains("shut off")
    }
}

#[test]
fn the_first_datagram_is_stamped_and_policed() {
    let Some(libvirt) = Libvirt::new() else { return };
    let host = &libvirt.host;
    let workload = Workload::new(1);
    let Workload { name, .. } = &workload;
    libvirt.define(&workload, &workload.keys());
    host.sh(&format!("virsh start {name}"));
    workload.is_stamped_and_policed(host);
    host.one_endpoint_of(name);

    // The guest has its endpoint for as long as it runs, whoever looks after it.
    host.kill("pgrep -x libvirtd");
    libvirt.start_daemon();
    host.forget();
    workload.goes_on_stamped_and_policed(host);
    host.one_endpoint_of(name);

    host.sh(&format!("virsh destroy {name}"));
    host.nothing_is_left();
    host.forget();
    host.sh(&format!("virsh start {name}"));
    workload.is_stamped_and_policed(host);
    host.kill("pgrep -f ^/usr/bin/qemu-system");
    wait_for("its end", || libvirt.is_off(&workload));
    host.nothing_is_left();
}

#[test]
fn a_guest_without_metadata_is_left_alone() {
    let Some(libvirt) = Libvirt::new() else { return };
    let workload = Workload::new(1);
    libvirt.define(&workload, &[]);
    libvirt.host.sh(&format!("virsh start {}", workload.name));
    workload.is_left_alone(&libvirt.host);
    libvirt.host.nothing_is_left();
}

#[test]
fn a_key_that_it_does_not_know_stops_the_start_and_is_named() {
    let Some(libvirt) = Libvirt::new() else { return };
    let workload = Workload::new(1);
    let mut keys = workload.keys().to_vec();
    keys.push(("cilmark.polcy", "enforce".to_owned()));
    libvirt.define(&workload, &keys);
    let run = libvirt.host.try_sh(&format!("virsh start {}", workload.name));
    assert_ne!(run.status, Some(0), "{run:?}");
    assert!(run.stderr.contains("polcy"), "{run:?}");
    libvirt.host.nothing_is_left();
}

#[test]
fn it_is_stamped_again_after_a_reboot() {
    let Some(libvirt) = Libvirt::new() else { return };
    let host = &libvirt.host;
    let workload = Workload::new(1);
    let Workload { name, .. } = &workload;
    libvirt.define(&workload, &workload.keys());
    host.sh(&format!("virsh autostart {name}; virsh start {name}"));
    workload.is_stamped_and_policed(host);
    host.reboot();
    host.forget();
    libvirt.start();
    workload.is_stamped_and_policed(host);
    host.one_endpoint_of(name);
    host.sh(&format!("virsh destroy {name}"));
    host.nothing_is_left();
}
