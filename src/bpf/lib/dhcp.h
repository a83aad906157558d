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
static __always_inline int is_lease_request(struct __sk_buff *skb, const struct packet *pkt)
{
	const __be32 *words = address_words(&pkt->destination);

	if (pkt->source.family == CM_IPV6)
		return is_link_local(&pkt->source) &&
		       (is_link_local(&pkt->destination) || words[0] == bpf_htonl(0xff020000));
	return words[0] == 0xffffffff ||
	       (!is_multicast(&pkt->destination) && is_remote_host(skb, pkt));
}

static __always_inline int is_pending(const struct cm_ct_entry *request)
{
	return request && ct_is_alive(request) && ct_rule(request->verdict) == CM_RULE_DHCP;
}

/*
 * Whether the workload has asked all of its link: under 0.0.0.0 or the address that the answer goes to. The
 * answer comes from one server, so that it is no packet of the request's flow.
 */
static __always_inline int has_asked(const struct packet *pkt)
{
	const __be32 *destination = address_words(&pkt->destination);

	if (pkt->source.family == CM_IPV6) {
		struct cm_ct6_key key = { .scope = ct_scope(), .protocol = IPPROTO_UDP };

		if (!is_link_local(&pkt->source))
			return 0;
		__builtin_memcpy(&key.local, pkt->destination.bytes, sizeof(key.local));
		key.remote.words[0] = bpf_htonl(0xff020000);
		key.remote.words[3] = bpf_htonl(0x00010002);
		key.local_port = pkt->dport;
		key.remote_port = pkt->sport;
		return is_pending(bpf_map_lookup_elem(&cm_ct6, &key));
	} else {
		struct cm_ct4_key key = { .scope = ct_scope(), .protocol = IPPROTO_UDP };

		key.remote = 0xffffffff;
		key.local_port = pkt->dport;
		key.remote_port = pkt->sport;
		if (is_pending(bpf_map_lookup_elem(&cm_ct4, &key)))
			return 1;
		key.local = destination[0];
		return is_pending(bpf_map_lookup_elem(&cm_ct4, &key));
	}
}

/* A global function, because nearly no packet needs it; so the verifier walks it once. */
__noinline int keeps_lease(struct __sk_buff *skb, const struct packet *pkt)
{
	if (!pkt || config.role != CM_ROLE_CONTAINER)
		return 0;
	return packet_program(pkt) == CM_FROM_CONTAINER ? is_lease_request(skb, pkt) :
							  has_asked(pkt);
}

#endif
