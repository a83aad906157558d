#!/usr/bin/env bash
# cilmark on real packets: `make demo` runs this as root, after the release build. It fails if it
# does not see what it shows.
#
# Everything lives in namespaces of its own: devices, mounts, and processes, so that nothing is left
# on the host even after kill -9. The script's network namespace is the router.
set -Eeuo pipefail

if [ "${1-}" != inside ]; then
	cd "$(dirname "$0")/.."
	if [ "$(id -u)" -ne 0 ]; then
		echo "demo: this takes root" >&2
		exit 1
	fi
	binaries=$(realpath -m "${CARGO_TARGET_DIR:-target}")/release
	if [ ! -x "$binaries/cilmark" ]; then
		echo "demo: $binaries/cilmark is not there; \`make demo\` builds it" >&2
		exit 1
	fi
	unset CILMARK_BPFFS RUST_LOG
	PATH=$binaries:$PATH exec unshare --mount --net --pid --fork --kill-child --mount-proc \
		examples/demo.sh inside
fi

bold='' green='' red='' plain=''
if [ -t 1 ]; then
	bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
fi
heading() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
fail() {
	printf '%sdemo: FAILED: %s%s\n' "$red" "$*" "$plain" >&4
	exit 1
}
# The first process of a namespace for processes ignores what it has no trap for.
exec 4>&2
trap 'echo "demo: interrupted" >&4; exit 130' INT TERM HUP
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

# run COMMAND: shows it as it would be typed, does it, shows and keeps what it printed.
run() {
	printf '%s$ %s%s\n' "$green" "$1" "$plain"
	output=$(eval "$1" 2>&1) || fail "\`$1\` failed: $output"
	[ -z "$output" ] || printf '%s\n' "$output"
}
# expect TEXT WHAT: the last output has the text.
expect() { [[ $output == *"$1"* ]] || fail "$2: no '$1' in the output above"; }
# wait_for WHAT COMMAND...: until the command succeeds, ten seconds at most.
wait_for() {
	local what=$1 deadline=$((SECONDS + 10))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $deadline ] || fail "waited in vain for $what"
		sleep 0.02
	done
}
gone() { ! "$@"; }

mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1

# workload NAME NUMBER: a network namespace, and the veth that leads there.
workload() {
	ip netns add "$1"
	ip link add "veth-$1" type veth peer name eth0 netns "$1"
	ip addr add "10.0.$2.1/24" dev "veth-$1"
	ip addr add "fd00:$2::1/64" dev "veth-$1" nodad
	ip link set "veth-$1" up
	ip -n "$1" link set lo up
	ip -n "$1" addr add "10.0.$2.10/24" dev eth0
	ip -n "$1" addr add "fd00:$2::10/64" dev eth0 nodad
	ip -n "$1" link set eth0 up
	ip -n "$1" route add default via "10.0.$2.1"
	ip -n "$1" route add default via "fd00:$2::1"
}
workload web 1
workload db 2
is_up() { [ "$(<"/sys/class/net/veth-$1/operstate")" = up ]; }
wait_for "veth-web" is_up web
wait_for "veth-db" is_up db
wait_for "the way from web to db" ip netns exec web ping -qc1 -W1 fd00:2::10

listens() { ip netns exec "$1" ss -Hltn "sport = 80" | grep -q .; }
# serve FROM TO ADDRESS: TCP.
serve() {
	ip netns exec "$2" nc -Nl "$3" 80 <<<"hello from $2" &
	wait_for "the server in $2" listens "$2"
	run "ip netns exec $1 nc -dw5 $3 80"
	expect "hello from $2" "TCP from $1 to $2"
	wait $!
}
# hello FROM TO ADDRESS: ICMP and TCP.
hello() {
	run "ip netns exec $1 ping -qc1 -W5 $3 | grep transmitted"
	serve "$@"
}
# counted NAME: packets that the nftables rule with this comment has seen.
counted() { nft list chain inet demo forward | sed -n "s/.*packets \([0-9]*\) .*\"$1\".*/\1/p"; }

heading "Two workloads behind a router"
echo "web 10.0.1.10 fd00:1::10 -- veth-web [router] veth-db -- 10.0.2.10 fd00:2::10 db"

heading "Give each an identity"
run "cilmark identity set 1234 web"
run "cilmark identity set 5678 db"
run "cilmark attach veth-web --id web --ip 10.0.1.10,fd00:1::10"
run "cilmark attach veth-db --id db --ip 10.0.2.10,fd00:2::10"

heading "nftables counts what the router forwards, by the identity in the mark"
run "cilmark mark encode web"
expect 0x04d20f00 "the mark of 1234"
run "nft add table inet demo"
run "nft 'add chain inet demo forward { type filter hook forward priority filter; }'"
run "nft 'add rule inet demo forward meta mark & 0xffff0fff == 0x04d20f00 counter comment \"web\"'"
run "nft 'add rule inet demo forward meta mark & 0xffff0fff == 0x162e0f00 counter comment \"db\"'"
[ "$(counted web) $(counted db)" = "0 0" ] || fail "the counters do not start at 0"

heading "ICMP and TCP, both ways, IPv4 and IPv6"
hello web db 10.0.2.10
hello web db fd00:2::10
hello db web 10.0.1.10
hello db web fd00:1::10

heading "Every packet carried its sender's identity"
run "nft list chain inet demo forward"
[ "$(counted web)" -gt 0 ] || fail "no packet carried the mark of web"
[ "$(counted db)" -gt 0 ] || fail "no packet carried the mark of db"
run "cilmark status"
expect "1234 (web)" "status"

heading "The state is in pinned maps, which bpftool reads"
run "bpftool map dump pinned /sys/fs/bpf/cilmark/cm_ipcache"
expect '"identity": 1234' "the ipcache"
expect '"identity": 5678' "the ipcache"

heading "web sends from an address that is not its own"
printf '%s$ cilmark monitor &%s\n' "$green" "$plain"
exec 3< <(exec cilmark monitor)
monitor=$!
run "ip -n web addr add 10.9.9.9/32 dev lo"
run "ip netns exec web ping -qc1 -W0.1 -I 10.9.9.9 10.0.2.10 | grep transmitted || true"
expect "0 received" "the spoofed ping"
read -rt 10 output <&3 || fail "the drop did not appear in \`cilmark monitor\`"
kill -INT "$monitor"
echo "$output"
expect "Invalid source ip" "the reason of the drop"
expect "10.9.9.9" "the dropped packet"

heading "Policy by identity: db takes TCP port 80 from web, and nothing else"
run "cilmark attach veth-db --id db --ip 10.0.2.10,fd00:2::10 --ingress-policy enforce"
run "cilmark policy add veth-db allow ingress from web tcp/80"
serve web db 10.0.2.10
serve web db fd00:2::10
run "ip netns exec web ping -qc1 -W0.1 10.0.2.10 | grep transmitted || true"
expect "0 received" "the ping that no rule allows"
run "cilmark explain veth-db to --src 10.0.1.10 --dst 10.0.2.10 --proto icmp || true"
expect "Policy denied" "the explanation"
run "cilmark policy list veth-db"
expect "allow ingress from web tcp/80" "the rules"

heading "Detach: nothing is left"
links=()
for pin in /sys/fs/bpf/cilmark/endpoints/*/*gress; do
	id=$(bpftool -j link show pinned "$pin" 2>/dev/null | jq .id) && links+=("$id")
done
# What the operator declared would keep the maps.
run "cilmark identity del web"
run "cilmark identity del db"
run "cilmark detach --all"
for id in "${links[@]}"; do
	wait_for "link $id to go" gone bpftool link show id "$id"
done
[ ${#links[@]} -eq 0 ] || echo "(the kernel no longer has the TCX links ${links[*]})"
run "find /sys/fs/bpf -mindepth 1 -not -name '*.debug'"
[ -z "$output" ] || fail "something is left in bpffs"
before=$(counted web)
run "ip netns exec web ping -qc1 -W5 10.0.2.10 | grep transmitted"
[ "$(counted web)" = "$before" ] || fail "packets still carry the mark of web"
echo "(and the counter stayed at $before)"

heading "The same on a kernel without TCX: clsact filters"
run "cilmark attach veth-web --id 1234 --hook clsact"
run "tc filter show dev veth-web ingress"
expect "from_container" "the filter"
hello web db 10.0.2.10
[ "$(counted web)" -gt "$before" ] || fail "no packet carried the mark of web"
run "cilmark detach veth-web"
run "tc filter show dev veth-web ingress; tc filter show dev veth-web egress"
[ -z "$output" ] || fail "a filter is left"
run "tc qdisc show dev veth-web"
expect "qdisc clsact" "the empty qdisc, which stays"
run "find /sys/fs/bpf -mindepth 1 -not -name '*.debug'"
[ -z "$output" ] || fail "something is left in bpffs"

heading "${green}All of it was as expected"
