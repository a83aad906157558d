/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Fragments are judged as their packet's first one: by its protocol, ports and type of message. That of
 * one that passes is kept until the LRU takes its place, and nobody else's first changes it but one that passes, too:
 * so what is judged is what the receiver puts together.
 */
#ifndef CILMARK_FRAGMENT_H
#define CILMARK_FRAGMENT_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "conntrack.h"
#include "endpoint.h"
#include "explain.h"
#include "inquiry.h"
#include "packet.h"
#include "policy.h"
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

/* By the packet's family. */
union fragment_key {
	struct cm_frag4_key v4;
	struct cm_frag6_key v6;
};

/* What is kept of a first fragment that is dropped. */
struct dropped_first {
	struct cm_frag_ports ports;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 pad[2];
};

/*
 * First fragments that were dropped, so that the reports about those that follow tell why. In a map of their
 * own, so that a flood of them takes no place from those that pass; each endpoint has one. Not pinned.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 8);
	__type(key, union fragment_key);
	__type(value, struct dropped_first);
} cm_frag_dropped SEC(".maps");

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

/* Of IPv6 the receiver asks the first one's headers alone what a packet is (RFC 8200, 4.5). */
static __always_inline void forget_protocol(const struct packet *pkt, union fragment_key *key)
{
	if (pkt->source.family == CM_IPV6)
		key->v6.protocol = 0;
}

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

/* Of one that has passed: 0, or a negative reason. */
static __always_inline int find_passed(struct packet *pkt, union fragment_key *key)
{
	__u8 protocol = pkt->l4_protocol;
	const struct cm_frag_ports *ports;

	/* What the first one's chain of headers ends with. */
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

/* Of one that was dropped. */
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
 * Gives a later fragment what its first one was: 0, or a negative reason. A global function, for its stack:
 * see is_host_address().
 */
__noinline int fragment_find_ports(struct packet *pkt, struct inquiry *inquiry)
{
	union fragment_key key = {};
	int verdict;

	if (!pkt || !inquiry || !has_policy())
		return -CM_DROP_FRAGMENT_NOT_FOUND;
	fragment_key(pkt, &key);
	verdict = find_passed(pkt, &key);
	if (verdict) {
		verdict = find_dropped(pkt, &key);
		inquiry->is_orphan = !verdict;
	}
	step(CM_CALL_FRAGMENT_FIND_PORTS, NULL, -verdict,
	     bpf_ntohs(pkt->sport) << 16 | bpf_ntohs(pkt->dport), inquiry->is_orphan);
	return verdict;
}

/* Keeps what a first fragment is. A global function, for its stack, as well. */
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
	/* Under what the later ones know. No transport has the number of an extension header. */
	key.v6.protocol = pkt->fragment_protocol;
	first.ports.sport = pkt->l4_protocol;
	first.ports.dport = 0;
	fragment_update(pkt, &key, &first.ports);
	return 0;
}

#endif
