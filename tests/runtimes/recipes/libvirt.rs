//! docs/recipes/libvirt.md.

use super::paste;
use crate::common::world::wait_for;
use crate::runtimes::libvirt::Libvirt;

const PAGE: &str = include_str!("../../../docs/recipes/libvirt.md");

/// What Debian's libvirt-daemon-config-network has.
const NETWORK: &str = "<network>
  <name>default</name><forward mode='nat'/><bridge name='virbr0' stp='on' delay='0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
  </ip>
</network>";

/// The guest gets its address by DHCP, asks for a name, has two servers, and tells on its console whom it reaches, at
/// last from an address that is not its own.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod /modules/$module; done </order
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -t 20 -T 1 -s /lease
nslookup web 192.168.122.1 | grep -q 192.168.122.7 && echo 'knows its name'
httpd -p 80 -h /etc
httpd -p 81 -h /etc
reaches() { nc -w 1 198.51.100.1 $1 </dev/null && echo \"reaches $*\" || echo \"fails $*\"; }
reaches 443
reaches 25
ip addr flush dev eth0
ip addr add 192.168.122.99/24 dev eth0
ip route add default via 192.168.122.1
reaches 443 'from another address'
ip addr flush dev eth0
ip addr add 192.168.122.7/24 dev eth0
echo served
exec sleep 1000000
";

const LEASE: &str = "#!/bin/busybox sh
[ \"$1\" = bound ] || exit 0
ip addr add $ip/$mask dev eth0
ip route add default via $router
echo got $ip
";

#[test]
fn a_guest_on_the_default_network_has_its_identity_by_pasting() {
    let Some(libvirt) = Libvirt::new() else { return };
    let host = &libvirt.host;
    host.write("/var/host/default.xml", NETWORK);
    host.sh("rm /etc/libvirt/hooks/qemu.d/cilmark
         virsh net-define /var/host/default.xml
         virsh net-start default");
    host.write("/var/host/image/lease", LEASE);
    host.sh("chmod +x /var/host/image/lease");
    libvirt.define_guest("web", INIT, "", "<interface type='network'><source network='default'/>");
    let _servers = [443, 25].map(|port| {
        let socat = format!("socat TCP-LISTEN:{port},fork,reuseaddr OPEN:/dev/null");
        host.spawn(&format!("nsenter --net=/var/host/outside {socat}"))
    });

    let restart = || {
        host.kill("pgrep -x libvirtd");
        libvirt.start_daemon();
    };
    paste(host, PAGE, "## The hook");
    restart();
    paste(host, PAGE, "## The guest");
    host.one_endpoint_of("web");
    let console = || host.sh("cat /var/host/log/web");
    wait_for("the guest", || console().contains("served"));
    for said in [
        "got 192.168.122.7",
        "knows its name",
        "reaches 443",
        "fails 25",
        "fails 443 from another address",
    ] {
        assert!(console().contains(said), "no `{said}` in {}", console());
    }
    let seen = paste(host, PAGE, "## What you see");
    for word in ["1234 (web)", "enforce/enforce", "id-from=metadata", "192.168.122.7"] {
        assert!(seen.contains(word), "no {word} in {seen}");
    }
    let metrics = host.sh("cilmark metrics");
    for reason in ["Invalid source ip", "Policy denied"] {
        assert!(metrics.contains(reason), "no {reason} in {metrics}");
    }
    let outside = "nsenter --net=/var/host/outside";
    host.sh(&format!("{outside} ip route add 192.168.122.0/24 via 198.51.100.2"));
    let reached = |from: &str, port: u16| {
        let socat = format!("socat -u OPEN:/dev/null TCP:192.168.122.7:{port},connect-timeout=1");
        host.try_sh(&format!("{from} {socat}")).status == Some(0)
    };
    assert!(reached("", 80) && !reached("", 81));
    assert!(!reached(outside, 80), "libvirt lets nobody in");

    paste(host, PAGE, "## To undo it");
    restart();
    host.nothing_is_left();
    host.sh("virsh start web");
    assert!(host.status().is_empty(), "it is nobody's now");
    host.sh("virsh destroy web; virsh net-destroy default");
}
