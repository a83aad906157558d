#!/usr/bin/env bash
# host.sh CILMARK: a host of its own on this machine, for real runtimes. Its network, mounts, processes, host name
# and cgroups are its own. What it writes to /dev/shm, /etc, /opt, /run, /usr/bin, /usr/share/containers and /var stays
# in memory, and /var/host is free for tests. CILMARK is its /usr/bin/cilmark. It says `host PID CGROUP` once it
# stands, PID being its first process, and lives until its stdin ends, whatever happens to whoever started it. Then all
# that runs there goes with it: nothing of it is outside of its namespaces and its cgroup.
#
# In there, `host.sh --reboot` does what a reboot does: every process dies, and what the kernel, /run and bpffs know
# is gone; what is on the disk stays.
set -euo pipefail

# Below them is the machine's, as it is. Of /var/lib the runtimes' data is no overlay, which can't be the upper layer
# of another one.
OVERLAYS=(etc opt usr/bin usr/share/containers var)
DATA=(cni containerd containers docker libvirt lxc)

die() {
	echo "host.sh: $*" >&2
	exit 1
}

disk() {
	local tree data
	# All memory of it, and with that what POSIX shares there.
	mount -t tmpfs -o mode=1777 host /dev/shm
	for tree in "${OVERLAYS[@]}"; do
		mkdir -p "/dev/shm/$tree/upper" "/dev/shm/$tree/work"
		mount -t overlay overlay -o "lowerdir=/$tree,upperdir=/dev/shm/$tree/upper,workdir=/dev/shm/$tree/work" "/$tree"
	done
	for data in "${DATA[@]}"; do
		mkdir -p "/var/lib/$data"
		mount -t tmpfs -o mode=755 "$data" "/var/lib/$data"
	done
	mkdir -p /var/host/log
	touch /usr/bin/cilmark
	mount --bind "$1" /usr/bin/cilmark
}

# What a boot begins without.
memory() {
	mount -t tmpfs -o mode=755 run /run
	mkdir -p /run/lock /run/netns
	mount -t tmpfs -o mode=755 log /var/log
	mount -t bpf bpf /sys/fs/bpf
	nft -f - <<-'END'
		flush ruleset
		# Which datagrams came out of workloads, and with which mark, before anything else saw them.
		table inet claims {
			set seen {
				typeof meta mark . udp dport . @th,64,32
				flags dynamic
			}
			chain first {
				type filter hook prerouting priority -400
				iifname "eth0" return
				udp dport 7000-7999 update @seen { meta mark . udp dport . @th,64,32 }
			}
		}
	END
}

# The uplink is eth0. What is behind it is /var/host/outside, a network namespace that notes what arrives.
network() {
	# No address has to wait until it is known to be nobody else's.
	sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
	ip link set lo up
	touch /var/host/outside
	unshare --net=/var/host/outside true
	ip link add eth0 type veth peer name uplink
	ip link set uplink netns /var/host/outside
	ip addr add 198.51.100.2/24 dev eth0
	ip addr add 2001:db8:100::2/64 dev eth0
	ip link set eth0 up
	nsenter --net=/var/host/outside sh -e <<-'END'
		ip link set lo up
		ip addr add 198.51.100.1/24 dev uplink
		ip addr add 2001:db8:100::1/64 dev uplink nodad
		ip link set uplink up
		nft -f - <<-'RULES'
			table inet claims {
				set arrived {
					typeof udp dport . @th,64,32
					flags dynamic
				}
				chain first {
					type filter hook prerouting priority -400
					udp dport 7000-7999 update @arrived { udp dport . @th,64,32 }
				}
			}
		RULES
	END
	ip route add default via 198.51.100.1
	ip -6 route add default via 2001:db8:100::1
}

# The first process of the host.
first() {
	mount --make-rprivate /
	disk "$1"
	# Docker would set kernel.keys.root_maxkeys of the whole machine.
	mount --bind /proc/sys/kernel /proc/sys/kernel
	mount -o remount,bind,ro /proc/sys/kernel
	# In a user namespace proc can be mounted only where a whole one is to be seen already.
	mkdir /var/host/proc
	mount -t proc proc /var/host/proc
	# Of this network namespace, and without what else is mounted there: who sees no AppArmor loads no profile.
	mount -t sysfs sysfs /sys
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	# Controllers are handed down only by a cgroup without processes.
	mkdir /sys/fs/cgroup/init
	echo 0 >/sys/fs/cgroup/init/cgroup.procs
	memory
	hostname host
	echo 'nameserver 198.51.100.1' >/etc/resolv.conf
	network
	echo ready
	exec >&2
	# Whoever loses its parent becomes a child of this one, and bash reaps it.
	trap 'exit 0' TERM
	trap : INT HUP
	mkfifo /var/host/never
	exec 4<>/var/host/never
	while :; do read -r _ <&4 || :; done
}

reboot() {
	local point device
	kill -KILL -1
	findmnt -rno TARGET | { grep -E '^/var/lib/(cni|containerd|containers|docker|libvirt|lxc)/' || :; } | tac |
		while read -r point; do umount -l "$point"; done
	find /dev/shm -maxdepth 1 -type f -delete
	umount -Rl /run
	umount -Rl /var/log
	umount -Rl /sys/fs/bpf
	for device in $(ip -br link | sed -n 's/^\([^@ ]*\).*/\1/p'); do
		# The other end of a veth is gone by now, or it may go while this looks.
		case $device in lo | eth0) ;; *) ip link del "$device" 2>/dev/null || : ;; esac
	done
	find /sys/fs/cgroup -mindepth 1 -depth -type d ! -path /sys/fs/cgroup/init -exec rmdir {} +
	memory
}

case ${1:-} in
'') die 'usage: host.sh CILMARK' ;;
--first) first "$2" ;;
--reboot) reboot && exit ;;
esac

cgroups=$(findmnt -nt cgroup2 -o TARGET | head -n 1)
[ -n "$cgroups" ] || die 'no cgroup2 is mounted'
cgroup=$cgroups/cilmark-host-$$
self=$(realpath "$0")
binary=$(realpath "$1")
for tree in "${OVERLAYS[@]}"; do
	[ -d "/$tree" ] || die "no directory /$tree"
done

remove() {
	# It ends as one that wants to, of whom unshare has nothing to say; its processes die with it.
	kill -TERM $first 2>/dev/null || kill -KILL $unshare 2>/dev/null || :
	wait $unshare || :
	# It is busy until the last of its processes has been reaped.
	for _ in {1..200}; do
		find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || :
		[ -d "$cgroup" ] || return 0
		sleep 0.05
	done
	die "$cgroup is still in use"
}
mkdir "$cgroup"
first='' unshare=''
trap remove EXIT

exec 3< <(
	echo 0 >"$cgroup/cgroup.procs"
	exec unshare --mount --net --pid --uts --cgroup --fork --kill-child --mount-proc \
		"$self" --first "$binary" </dev/null
)
unshare=$!
read -r _ <&3 || die 'the host did not come up'
first=$(pgrep -P "$unshare")
echo "host $first $cgroup"
# The end of whoever started this.
cat >/dev/null
