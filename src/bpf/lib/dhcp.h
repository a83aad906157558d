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
#include "scope.h"

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

/* Whether the workload has asked, from an address, all of its link. What no lock has read may be old: it asks again. */
static __noinline int is_pending(const struct tuple *request)
{
	struct flow_seen seen = {};

	return ct_find_quickly(request, &seen) && seen.flow.verdict && ct_is_alive(seen.expires) &&
	       seen.flow.rule == CM_RULE_DHCP;
}

/*
 * Whether the workload has sent a request to its whole link, from 0.0.0.0 or from the address that the answer is for.
 * The request went to broadcast and the answer comes from one server: they are two flows, so that the request's entry
 * is looked up here.
 */
__noinline int has_asked(const struct packet *pkt)
{
	struct cm_address nobody = {}, all = {};
	struct tuple request = {};
	__be32 *words = (__be32 *)all.bytes;

	if (!pkt || config.role != CM_ROLE_CONTAINER)
		return 0;
	/* Not by a constant, which would lie beside the configuration. */
	nobody.family = CM_IPV4;
	all.family = pkt->source.family;
	request.local = &pkt->destination;
	request.remote = &all;
	request.protocol = IPPROTO_UDP;
	request.local_port = pkt->dport;
	request.remote_port = pkt->sport;
	if (pkt->source.family == CM_IPV6) {
		if (!is_link_local(&pkt->source))
			return 0;
		words[0] = bpf_htonl(0xff020000);
		words[3] = bpf_htonl(0x00010002);
	} else {
		words[0] = 0xffffffff;
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < 2; i++) {
		if (is_pending(&request))
			return 1;
		if (pkt->source.family == CM_IPV6)
			break;
		request.local = &nobody;
	}
	return 0;
}

static __always_inline int keeps_lease(struct __sk_buff *skb, const struct packet *pkt)
{
	return packet_program(pkt) == CM_FROM_CONTAINER ? is_lease_request(skb, pkt) :
							  has_asked(pkt);
}

#endif
