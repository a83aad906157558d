/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Later fragments have no transport header. They are judged by the protocol and the ports (or ICMP type) of their packet's
 * first fragment, which are kept here when it passes. A first fragment that drops never overwrites those of one that has
 * passed: the receiver has only the latter to reassemble.
 */
#ifndef CILMARK_FRAGMENT_H
#define CILMARK_FRAGMENT_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/explain.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "conntrack.h"
#include "endpoint.h"
#include "explain.h"
#include "policy_ctx.h"
#include "packet.h"
#include "parse.h"
#include "policy_map.h"
#include "scope.h"

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 12);
	__type(key, struct cm_frag4_key);
	__type(value, struct cm_frag_ports);
} cm_frags4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 12);
	__type(key, struct cm_frag6_key);
	__type(value, struct cm_frag_ports);
} cm_frags6 SEC(".maps");

/* Which of the two follows from the packet's family. */
union fragment_key {
	struct cm_frag4_key v4;
	struct cm_frag6_key v6;
};

/* What is kept of a first fragment that was dropped. */
struct dropped_first {
	struct cm_frag_ports ports;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 pad[2];
};

/*
 * First fragments that were dropped: the fragments that follow are dropped and reported for the same reason. A map of
 * its own, so that a flood of these evicts none that passed. Each endpoint has one; it is not pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 8);
	__type(key, union fragment_key);
	__type(value, struct dropped_first);
} cm_frag_dropped SEC(".maps");

/* Fills the key that all fragments of a packet share. A global function, because it has two callers. */
__noinline int fragment_key(struct packet *pkt, union fragment_key *key)
{
	if (!pkt || !key)
		return 0;
	if (pkt->source.family == CM_IPV4) {
		key->v4 = (struct cm_frag4_key){
			.source = address_words(&pkt->source)[0],
			.destination = address_words(&pkt->destination)[0],
			.id = pkt->fragment_id,
			.scope = ct_scope_low(),
			.scope_high = ct_scope_high(),
			.protocol = pkt->l4_protocol,
			.direction = packet_direction(pkt),
		};
		return 0;
	}
	key->v6 = (struct cm_frag6_key){
		.id = pkt->fragment_id,
		.scope = ct_scope_low(),
		.scope_high = ct_scope_high(),
		.protocol = pkt->l4_protocol,
		.direction = packet_direction(pkt),
	};
	__builtin_memcpy(&key->v6.source, pkt->source.bytes, sizeof(key->v6.source));
	__builtin_memcpy(&key->v6.destination, pkt->destination.bytes, sizeof(key->v6.destination));
	return 0;
}

static __always_inline const struct cm_frag_ports *fragment_lookup(const struct packet *pkt,
								   const union fragment_key *key)
{
	return pkt->source.family == CM_IPV4 ? bpf_map_lookup_elem(&cm_frags4, &key->v4) :
					       bpf_map_lookup_elem(&cm_frags6, &key->v6);
}

static __always_inline void fragment_update(const struct packet *pkt, const union fragment_key *key,
					    const struct cm_frag_ports *ports)
{
	if (pkt->source.family == CM_IPV4)
		bpf_map_update_elem(&cm_frags4, &key->v4, ports, BPF_ANY);
	else
		bpf_map_update_elem(&cm_frags6, &key->v6, ports, BPF_ANY);
}

/* In IPv6 only the first fragment's headers tell the packet's protocol (RFC 8200, 4.5): so it is no part of this key. */
static __always_inline void forget_protocol(const struct packet *pkt, union fragment_key *key)
{
	if (pkt->source.family == CM_IPV6)
		key->v6.protocol = 0;
}

/* Completes a later fragment. For ICMP dport holds the type, and sport the identifier of an echo. */
static __always_inline void take_ports(struct packet *pkt, const struct cm_frag_ports *ports)
{
	if (is_icmp(pkt)) {
		pkt->icmp_type = bpf_ntohs(ports->dport);
		set_echo(pkt, ports->sport);
		pkt->is_flowless = !pkt->echo;
	} else {
		pkt->sport = ports->sport;
		pkt->dport = ports->dport;
	}
}

/* Completes a later fragment whose first one has passed: 0, or a negative reason if none is known. */
static __always_inline int find_passed(struct packet *pkt, union fragment_key *key)
{
	__u8 protocol = pkt->l4_protocol;
	const struct cm_frag_ports *ports;

	/* It names an extension header: the entry under that number has the protocol at the end of the chain. */
	if (pkt->source.family == CM_IPV6 && is_extension_header(protocol)) {
		ports = fragment_lookup(pkt, key);
		if (!ports)
			return -CM_DROP_FRAGMENT_NOT_FOUND;
		protocol = ports->sport;
		key->v6.protocol = protocol;
	}
	ports = fragment_lookup(pkt, key);
	if (!ports)
		return -CM_DROP_FRAGMENT_NOT_FOUND;
	pkt->l4_protocol = protocol;
	take_ports(pkt, ports);
	return 0;
}

/* The same for one whose first fragment was dropped. */
static __always_inline int find_dropped(struct packet *pkt, union fragment_key *key)
{
	const struct dropped_first *first;

	forget_protocol(pkt, key);
	first = bpf_map_lookup_elem(&cm_frag_dropped, key);
	if (!first)
		return -CM_DROP_FRAGMENT_NOT_FOUND;
	pkt->l4_protocol = first->protocol;
	pkt->tcp_flags = first->tcp_flags;
	take_ports(pkt, &first->ports);
	return 0;
}

/*
 * Gives a later fragment the protocol and ports of its first one: 0, or a negative reason if that is not known. A global
 * function, to keep the key off its caller's stack.
 */
__noinline int fragment_find_ports(struct packet *pkt, struct policy_ctx *ctx)
{
	union fragment_key key = {};
	int verdict;

	if (!pkt || !ctx || !has_policy())
		return -CM_DROP_FRAGMENT_NOT_FOUND;
	fragment_key(pkt, &key);
	verdict = find_passed(pkt, &key);
	if (verdict) {
		verdict = find_dropped(pkt, &key);
		ctx->is_orphan = !verdict;
	}
	step(CM_CALL_FRAGMENT_FIND_PORTS, NULL, -verdict,
	     bpf_ntohs(pkt->sport) << 16 | bpf_ntohs(pkt->dport), ctx->is_orphan);
	return verdict;
}

/* Keeps the protocol and ports of a first fragment for those that follow. A global function, for the same reason. */
__noinline int fragment_keep_ports(struct packet *pkt, int passes)
{
	struct dropped_first first = {};
	union fragment_key key = {};

	if (!pkt || !has_policy() || config.explain)
		return 0;
	first.ports.sport = pkt->sport;
	first.ports.dport = pkt->dport;
	first.protocol = pkt->l4_protocol;
	first.tcp_flags = pkt->tcp_flags;
	if (is_icmp(pkt)) {
		if (pkt->echo != ECHO_REQUESTED)
			first.ports.sport = pkt->dport;
		first.ports.dport = bpf_htons(pkt->icmp_type);
	}
	fragment_key(pkt, &key);
	if (!passes) {
		forget_protocol(pkt, &key);
		bpf_map_update_elem(&cm_frag_dropped, &key, &first, BPF_ANY);
		return 0;
	}
	fragment_update(pkt, &key, &first.ports);
	if (pkt->source.family != CM_IPV6 || !is_extension_header(pkt->fragment_protocol))
		return 0;
	/* Later fragments name the extension header behind the fragment header: see find_passed(). */
	key.v6.protocol = pkt->fragment_protocol;
	first.ports.sport = pkt->l4_protocol;
	first.ports.dport = 0;
	fragment_update(pkt, &key, &first.ports);
	return 0;
}

#endif
