/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * DHCP of a workload passes whatever the rules say: its requests to a server on its link or to this host, and the
 * answers to them. This opens nothing else: a request is never routed off the link by this host, and an answer
 * passes only if the workload has sent a request in the last minute.
 */
#ifndef CILMARK_DHCP_H
#define CILMARK_DHCP_H

#include "abi/config.h"
#include "abi/events.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "conntrack.h"
#include "endpoint.h"
#include "host.h"
#include "packet.h"
#include "policy_ctx.h"

/* Whether a packet has the ports of DHCP: a cheap test, because every new flow meets it. */
static __always_inline int has_dhcp_ports(const struct packet *pkt)
{
	__u8 is_v6 = pkt->source.family == CM_IPV6;
	__u16 client = is_v6 ? 546 : 68;
	__u16 server = is_v6 ? 547 : 67;

	return packet_program(pkt) == CM_FROM_CONTAINER ? is_udp(pkt, client, server) :
							  is_udp(pkt, server, client);
}

/*
 * Whether a workload may send a request there: to broadcast or link-local multicast, or to this host. To any other
 * unicast address it could be a tunnel through a router of the link. A client whose server is elsewhere falls back to
 * broadcast in the end (RFC 2131, 4.4.5).
 */
__noinline int is_lease_request(struct __sk_buff *skb, const struct packet *pkt)
{
	const __be32 *words;

	if (!pkt || config.role != CM_ROLE_CONTAINER)
		return 0;
	words = address_words(&pkt->destination);
	if (pkt->source.family == CM_IPV6)
		return is_link_local(&pkt->source) &&
		       (is_link_local(&pkt->destination) || words[0] == bpf_htonl(0xff020000));
	return words[0] == 0xffffffff ||
	       (!is_multicast(&pkt->destination) && is_remote_host(skb, pkt));
}

/* Whether there is a request of DHCP, and it lives. */
static __always_inline int is_pending(const union flow_key *key, int is_v6,
				      const struct flow_place *where)
{
	return ct_visit(key, is_v6, where, FLOW_LOOK, NULL) == CT_LEASE ||
	       ct_visit(key, is_v6, where, FLOW_LOOK | FLOW_IN_SECOND, NULL) == CT_LEASE;
}

/*
 * Whether the workload has sent a request to its whole link, from 0.0.0.0 or from the address that the answer is for.
 * The request went to broadcast and the answer comes from one server: they are two flows, so that the request's entry
 * is looked up here.
 */
__noinline int has_asked(const struct packet *pkt)
{
	struct flow_place where = {};
	union flow_key key = {};
	int is_v6;

	if (!pkt || config.role != CM_ROLE_CONTAINER)
		return 0;
	/* The answer as a flow, but to all. */
	is_v6 = packet_key(pkt, &key, CM_INGRESS);
	if (is_v6 && !is_link_local(&pkt->source))
		return 0;
	if (is_v6) {
		key.words[2] = bpf_htonl(0xff020000);
		key.words[3] = (__u64)bpf_htonl(0x00010002) << 32;
	} else {
		key.words[0] |= 0xffffffffULL << 32;
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < 2; i++) {
		ct_locate(&key, is_v6, &where);
		if (is_pending(&key, is_v6, &where))
			return 1;
		if (is_v6)
			break;
		key.words[0] = 0xffffffffULL << 32;
	}
	return 0;
}

static __always_inline int keeps_lease(struct __sk_buff *skb, const struct packet *pkt)
{
	return packet_program(pkt) == CM_FROM_CONTAINER ? is_lease_request(skb, pkt) :
							  has_asked(pkt);
}

#endif
