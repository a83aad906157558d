/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Fragments get the ports of their packet's first one. */
#ifndef CILMARK_FRAGMENT_H
#define CILMARK_FRAGMENT_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "conntrack.h"
#include "endpoint.h"
#include "explain.h"
#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 12);
	__type(key, struct cm_frag4_key);
	__type(value, struct cm_frag_ports);
} cm_frag4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 12);
	__type(key, struct cm_frag6_key);
	__type(value, struct cm_frag_ports);
} cm_frag6 SEC(".maps");

/* By the packet's family. */
union fragment_key {
	struct cm_frag4_key v4;
	struct cm_frag6_key v6;
};

/* A global function for both of its callers. */
__noinline int fragment_key(struct packet *pkt, union fragment_key *key)
{
	if (!pkt || !key)
		return 0;
	if (pkt->source.family == CM_IPV4) {
		key->v4 = (struct cm_frag4_key){
			.source = address_words(&pkt->source)[0],
			.destination = address_words(&pkt->destination)[0],
			.id = pkt->fragment_id,
			.scope = ct_scope(),
			.protocol = pkt->l4_protocol,
			.direction = packet_direction(pkt),
		};
		return 0;
	}
	key->v6 = (struct cm_frag6_key){
		.id = pkt->fragment_id,
		.scope = ct_scope(),
		.protocol = pkt->l4_protocol,
		.direction = packet_direction(pkt),
	};
	__builtin_memcpy(&key->v6.source, pkt->source.bytes, sizeof(key->v6.source));
	__builtin_memcpy(&key->v6.destination, pkt->destination.bytes, sizeof(key->v6.destination));
	return 0;
}

/* Gives a later fragment its ports: 0, or a negative reason. */
static __always_inline int fragment_find_ports(struct packet *pkt)
{
	const struct cm_frag_ports *ports;
	union fragment_key key = {};

	fragment_key(pkt, &key);
	ports = pkt->source.family == CM_IPV4 ? bpf_map_lookup_elem(&cm_frag4, &key.v4) :
						bpf_map_lookup_elem(&cm_frag6, &key.v6);
	if (ports && is_icmp(pkt)) {
		pkt->icmp_type = bpf_ntohs(ports->dport);
		set_echo(pkt, ports->sport);
	} else if (ports) {
		pkt->sport = ports->sport;
		pkt->dport = ports->dport;
	}
	step(CM_CALL_FRAGMENT_FIND_PORTS, NULL, ports ? 0 : CM_DROP_FRAGMENT_NOT_FOUND,
	     bpf_ntohs(pkt->sport) << 16 | bpf_ntohs(pkt->dport), 0);
	return ports ? 0 : -CM_DROP_FRAGMENT_NOT_FOUND;
}

/* Keeps those of a first fragment that passes. */
static __always_inline void fragment_keep_ports(struct packet *pkt)
{
	struct cm_frag_ports ports = { pkt->sport, pkt->dport };
	union fragment_key key = {};

	if (config.explain)
		return;
	if (is_icmp(pkt)) {
		ports.sport = pkt->echo == ECHO_REQUESTED ? pkt->sport : pkt->dport;
		ports.dport = bpf_htons(pkt->icmp_type);
	}
	fragment_key(pkt, &key);
	if (pkt->source.family == CM_IPV4)
		bpf_map_update_elem(&cm_frag4, &key.v4, &ports, BPF_ANY);
	else
		bpf_map_update_elem(&cm_frag6, &key.v6, &ports, BPF_ANY);
}

#endif
