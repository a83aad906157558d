/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * A workload's lease: what it asks a server on its link, or this host, passes whatever the rules say, and so
 * does the answer to what it has asked. Neither opens anything else: what it asks does not leave the link
 * by this host, and without a request of the last minute nobody answers.
 */
#ifndef CILMARK_DHCP_H
#define CILMARK_DHCP_H

#include "abi.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "conntrack.h"
#include "endpoint.h"
#include "host.h"
#include "packet.h"
#include "scope.h"

/* Whether a packet may be one of DHCP at all: cheap, since it is asked about each new flow. */
static __always_inline int has_dhcp_ports(const struct packet *pkt)
{
	__u8 is_v6 = pkt->source.family == CM_IPV6;
	__u16 client = is_v6 ? 546 : 68;
	__u16 server = is_v6 ? 547 : 67;

	return packet_program(pkt) == CM_FROM_CONTAINER ? is_udp(pkt, client, server) :
							  is_udp(pkt, server, client);
}

/*
 * To whom a workload may send a request. Past the broadcast only to this host: to any other unicast
 * address it would be a tunnel by whoever routes for the link. A client whose server is elsewhere asks all
 * of the link in the end (RFC 2131, 4.4.5).
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
static __always_inline int is_pending(const struct tuple *request)
{
	struct flow_ref ref = {};

	return ct_find_quickly(request, &ref) &&
	       ct_is_alive(ref.bucket->ways.expires[ref.way & (CM_FLOW_WAYS - 1)]) &&
	       ref.flow->rule == CM_RULE_DHCP && flow_is_same(&ref);
}

/*
 * Whether the workload has asked all of its link: under 0.0.0.0 or the address that the answer goes to. The
 * answer comes from one server, so that it is no packet of the request's flow.
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
