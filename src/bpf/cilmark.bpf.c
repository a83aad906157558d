/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The four programs, and one of user space's. An endpoint loads two of the four: a container's from_container and to_container
 * (ingress and egress hook of the host side of its veth or tap), a NIC's from_netdev and to_netdev.
 * With local delivery to_container is also what the programs of others tail-call.
 * Accepting is TC_ACT_UNSPEC, so that other programs on the hook still run.
 */
#include "abi/config.h"
#include "abi/events.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include "lib/arp.h"
#include "lib/config.h"
#include "lib/drop.h"
#include "lib/endpoint.h"
#include "lib/enumerators.h"
#include "lib/explain.h"
#include "lib/flow_edit.h"
#include "lib/flow_label.h"
#include "lib/ipcache.h"
#include "lib/local_delivery.h"
#include "lib/mark.h"
#include "lib/packet.h"
#include "lib/parse.h"
#include "lib/verdict.h"
#include "lib/resolve.h"
#include "lib/source.h"
#include "lib/stack_flows.h"
#include "lib/trace.h"

/* User space's own: names for identities. Declared here for its layout and pin. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, __u32);
	__type(value, struct cm_identity);
} cm_identities SEC(".maps");

/* And their labels, which clusters tell. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, struct cm_id_labels);
} cm_id_labels SEC(".maps");

/* And where each endpoint is attached; one that finds no room is looked for by its pins. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 14);
	__type(key, __u32);
	__type(value, struct cm_device);
} cm_devices SEC(".maps");

/* And the rules of identities, of which those of endpoints are made. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 16);
	__type(key, struct cm_id_rule_key);
	__type(value, struct cm_policy_entry);
} cm_id_rules SEC(".maps");

/* Never written: a head is stored as an entry. */
struct cm_id_rules_head id_rules_head_layout;

/* And what an endpoint was asked to be, in pieces: one map for each endpoint. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cm_spec);
} cm_spec SEC(".maps");

/* The workload is sending. */
SEC("tc")
int from_container(struct __sk_buff *skb)
{
	struct packet pkt;
	int verdict;

	if (!configured())
		return TC_ACT_UNSPEC;
	packet_init(&pkt, skb, CM_FROM_CONTAINER);
	pkt.verdict.source_identity = config.identity;
	verdict = parse_packet(skb, &pkt);
	if (verdict == 0)
		verdict = check_source(skb, &pkt);
	if (verdict < 0)
		return drop(skb, &pkt, verdict);
	learn_mac(skb);
	if (arp_wants_answer(&pkt))
		return arp_answer(skb, &pkt);
	verdict = policy_verdict(skb, &pkt, CM_EGRESS);
	if (verdict == 0 && pkt.verdict.is_hidden)
		verdict = hide_from_host(skb);
	if (verdict < 0)
		return drop(skb, &pkt, verdict);
	if (config.flow_label && flow_label_set(skb, &pkt))
		return drop(skb, &pkt, -CM_DROP_WRITE_ERROR);
	mark_set_identity(skb, config.identity);
	mark_set_proof(skb);
	return deliver(skb, &pkt);
}

/* The workload is receiving, from this host's stack or past it. */
SEC("tc")
int to_container(struct __sk_buff *skb)
{
	int delivered, verdict = 0;
	struct packet pkt;

	if (!configured())
		return TC_ACT_UNSPEC;
	delivered = is_delivered(skb);
	packet_init(&pkt, skb, CM_TO_CONTAINER);
	if (has_policy() || delivered || may_come_by_stack(skb))
		parse_packet(skb, &pkt);
	/* It comes here again. */
	if (delivered && is_left_to_stack(&pkt))
		return TC_ACT_UNSPEC;
	if (!delivered && comes_by_stack(skb, &pkt))
		remember_stack_flow(&pkt);
	/* What is for a tap comes here again by its hook, and with its sender's mark. */
	if (!delivered || config.delivery == CM_DELIVERY_PEER) {
		/* A third-party program's, too: the kernel clears it only on its own way into a namespace. */
		if (delivered || mark_is_ours(pkt.mark_in))
			mark_clear(skb);
		verdict = policy_verdict(skb, &pkt, CM_INGRESS);
	}
	if (verdict == 0 && delivered)
		verdict = route_to_workload(skb, &pkt);
	if (verdict < 0)
		return drop(skb, &pkt, verdict);
	return delivered ? enter_workload(skb, &pkt) : accept(skb, &pkt);
}

/* A NIC has received: for this host, or to be forwarded. */
SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	struct packet pkt;
	int verdict;

	if (!configured())
		return TC_ACT_UNSPEC;
	packet_init(&pkt, skb, CM_FROM_NETDEV);
	if (mark_names_sender(pkt.mark_in) && !mark_is_proven(skb))
		mark_clear(skb);
	if (has_policy() || config.stamp_remote || config.local_delivery)
		parse_packet(skb, &pkt);
	verdict = policy_verdict(skb, &pkt, CM_INGRESS);
	if (verdict < 0)
		return drop_received(skb, &pkt, verdict);
	if (config.stamp_remote && packet_is_ip(&pkt) && mark_is_free(skb))
		mark_set_if_it_fits(skb, remote_identity_to_stamp(skb, &pkt));
	return deliver(skb, &pkt);
}

/* A NIC is about to send: from this host, or forwarded. */
SEC("tc")
int to_netdev(struct __sk_buff *skb)
{
	struct packet pkt;
	int verdict;

	if (!configured())
		return TC_ACT_UNSPEC;
	packet_init(&pkt, skb, CM_TO_NETDEV);
	policy_clear_mark(skb);
	if (has_policy() || config.identity != IDENTITY_HOST)
		parse_packet(skb, &pkt);
	verdict = policy_verdict(skb, &pkt, CM_EGRESS);
	if (verdict < 0)
		return drop(skb, &pkt, verdict);
	if (config.identity != IDENTITY_HOST && is_host_traffic(skb, &pkt) &&
	    !keeps_its_mark(skb, &pkt))
		mark_replace(skb, config.identity);
	return accept(skb, &pkt);
}

/* On no hook: user space runs it to read, add and delete flows. */
SEC("tc")
int edit_flows(struct __sk_buff *skb)
{
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < CM_FLOW_EDITS; i++)
		if (!edit_flow(skb, i))
			break;
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
