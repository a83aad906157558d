#!/usr/bin/env bash
# A test of one's own set-up, to be copied: attach, then hold rules and real connections to what they
# are for. It takes root, cilmark on the path (or in DIR: policy-test.sh DIR), jq and socat.
set -Eeuo pipefail

# Everything lives in namespaces of its own: the machine's devices and BPF file system are not
# touched, and nothing is left behind, whatever ends the test.
if [ "${1-}" != inside ]; then
	PATH=${1:+$(realpath "$1"):}$PATH exec unshare --mount --net --pid --fork --kill-child --mount-proc \
		bash "$(realpath "$0")" inside
fi
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /run
trap 'echo "policy-test: FAILED: line $LINENO: $BASH_COMMAND" >&2' ERR

# A web server that the host may reach on port 80 and nothing else.
ip netns add web
ip link add veth-web type veth peer name eth0 netns web
ip addr add 192.0.2.1/24 dev veth-web
ip link set veth-web up
ip -n web addr add 192.0.2.10/24 dev eth0
ip -n web link set eth0 up
for port in 80 22; do
	ip netns exec web socat "TCP-LISTEN:$port,fork,reuseaddr" SYSTEM:'echo hello' &
	until [ -n "$(ip netns exec web ss -Hltn "sport = :$port")" ]; do kill -0 $!; done
done
cilmark attach veth-web --id 1234 --ip 192.0.2.10 --policy enforce
cilmark policy add veth-web 'allow ingress from any tcp/80'

# What the rules say, without a packet: exit status 0 passes, 3 drops.
to_web=(cilmark explain veth-web to --src 192.0.2.1 --dst 192.0.2.10 --json)
"${to_web[@]}" --dport 80 | jq -e '.rule == "allow ingress from any tcp/80"' >/dev/null
verdict=$("${to_web[@]}" --dport 22) && status=0 || status=$?
[ "$status" -eq 3 ]
jq -e '.drop_reason.name == "Policy denied"' >/dev/null <<<"$verdict"

# What becomes of connections: both ports have a listener, one is reached.
[ "$(socat -u TCP:192.0.2.10:80,connect-timeout=5 -)" = hello ]
if socat -u TCP:192.0.2.10:22,connect-timeout=1 - 2>/dev/null; then false; fi

# What the datapath counted.
cilmark policy list veth-web --json |
	jq -e 'any(.[]; .rule == "allow ingress from any tcp/80" and .packets > 0)' >/dev/null
cilmark metrics --json | jq -e 'any(.[]; .name == "Policy denied" and .packets > 0)' >/dev/null
echo "policy-test: passed" >&2
