/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The verdict on a flow, or on a packet that belongs to none: by the rules, and by the exceptions to them. A verdict is 0
 * or a negative reason; pkt->rule names the rule or exception that gave it.
 */
#ifndef CILMARK_DECIDE_H
#define CILMARK_DECIDE_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "conntrack.h"
#include "dhcp.h"
#include "explain.h"
#include "failsafe.h"
#include "host.h"
#include "icmp.h"
#include "identity.h"
#include "inquiry.h"
#include "ipcache.h"
#include "packet.h"
#include "policy.h"
#include "resolve.h"
#include "socket.h"

/* The service of the flow's responder that rules are asked about: its port, or the type of ICMP message. */
static __always_inline __be16 service_of(const struct packet *pkt, int forward)
{
	/* ICMP of the other family has no types here. 0xffff is none, so that only rules for the whole protocol match. */
	if (!is_icmp(pkt))
		return pkt->l4_protocol == IPPROTO_ICMP || pkt->l4_protocol == IPPROTO_ICMPV6 ?
			       0xffff :
		       forward ? pkt->dport :
				 pkt->sport;
	if (forward || pkt->icmp_type != echo_reply_of(pkt->l4_protocol))
		return bpf_htons(pkt->icmp_type);
	return bpf_htons(echo_request_of(pkt->l4_protocol));
}

/*
 * The identity that a flow goes to. What leaves by a NIC never goes to this host. What a workload sends is first taken
 * for another's, too; if the rules could tell the host from others, decide_flow() looks up the route, sets is_to_host
 * and asks again.
 */
static __always_inline __u32 destination_identity(const struct cm_address *remote,
						  struct inquiry *inquiry)
{
	__u64 known = ipcache_lookup(remote);

	if (known_is_host(known) && is_attached_here(remote)) {
		if (inquiry->is_to_host)
			return known;
		inquiry->tells_host = 1;
		known = ipcache_lookup_prefix(remote);
	}
	return inquiry->is_to_host ? IDENTITY_HOST : known;
}

/* Asks the rules about the flow, of this direction, that a packet belongs to: 0, or a negative reason. */
__noinline int decide(struct packet *pkt, struct inquiry *inquiry, enum cm_direction direction)
{
	const struct cm_address *remote;
	int forward, verdict;
	__be16 port;
	__u32 peer;

	if (!pkt || !inquiry || policy_mode(direction) == CM_POLICY_OFF)
		return 0;
	step(CM_CALL_DECIDE, NULL, direction, 0, 0);
	forward = packet_direction(pkt) == direction;
	remote = packet_remote(pkt);
	peer = direction == CM_EGRESS ? destination_identity(remote, inquiry) :
					source_identity(remote, inquiry->flow.claimed_identity);
	if (packet_direction(pkt) == CM_EGRESS)
		pkt->destination_identity = peer;
	else
		pkt->source_identity = peer;
	if (refuses_host() && forward && direction == CM_INGRESS && peer == IDENTITY_HOST)
		return -CM_DROP_INVALID_SOURCE; /* decide_flow() checks whether it really is the host's address */
	port = service_of(pkt, forward);
	verdict = ask_policy(pkt, inquiry, direction, peer, port);
	step(CM_CALL_POLICY_LOOKUP, NULL,
	     direction << 24 | pkt->l4_protocol << 16 | bpf_ntohs(port), peer, -verdict);
	return verdict;
}

/*
 * The verdict on a flow that is older than its policy: allowed if the rules of its direction allow it, or if none
 * denies it. If it is not known which end began, the rules of either direction may allow it.
 */
static __always_inline int decide_adopted(struct packet *pkt, struct inquiry *inquiry)
{
	int is_known = inquiry->flow.adopted == CM_CT_ADOPTED_KNOWN;
	enum cm_direction first = is_known ? inquiry->flow.direction & 1 : CM_INGRESS;
	int received = decide(pkt, inquiry, first);
	__u32 rule = pkt->rule;
	int sent = received && !is_known ? decide(pkt, inquiry, CM_EGRESS) : received;

	if (!received || !sent || sent == -CM_DROP_POLICY_DENY)
		return sent;
	if (received != -CM_DROP_POLICY_DENY) {
		pkt->rule = CM_RULE_ADOPTED;
		return 0;
	}
	pkt->rule = rule;
	return received;
}

/* Whether a flow without an entry is a TCP connection of this host that is older than its policy. */
static __always_inline int may_be_adopted(struct __sk_buff *skb, const struct packet *pkt)
{
	return config.role == CM_ROLE_NETDEV && config.adopt_until_ns &&
	       pkt->l4_protocol == IPPROTO_TCP && !pkt->fragment && !(pkt->tcp_flags & TCP_SYN) &&
	       bpf_ktime_get_coarse_ns() < config.adopt_until_ns &&
	       find_socket(skb, pkt) == SOCKET_CONNECTED;
}

/* The verdict on a flow whose direction is known, by a packet of either direction. */
static __always_inline int decide_again(struct packet *pkt, struct inquiry *inquiry)
{
	struct cm_flow *flow = &inquiry->flow;
	int forward = flow->direction == packet_direction(pkt);

	if (flow->masqueraded) {
		pkt->rule = CM_RULE_MASQUERADED;
		return 0;
	}
	if (is_failsafe(flow->direction, pkt->l4_protocol, service_of(pkt, forward))) {
		if (refuses_host() && forward && flow->direction == CM_INGRESS &&
		    !flow->claimed_identity && is_listed_host(&pkt->source))
			return -CM_DROP_INVALID_SOURCE;
		pkt->rule = CM_RULE_FAILSAFE;
		return 0;
	}
	if (flow->adopted)
		return decide_adopted(pkt, inquiry);
	return decide(pkt, inquiry, flow->direction);
}

/*
 * The verdict on a workload's packet that is allowed to others and denied to this host. If its frame is broadcast or
 * multicast, the others still get it, and the host's own stack does not (is_hidden).
 */
static __always_inline int decide_for_many(struct __sk_buff *skb, struct packet *pkt,
					   const struct inquiry *inquiry, int others, int host)
{
	if (others || !host || !is_for_many(skb) || !inquiry->is_enforced)
		return host;
	pkt->is_hidden = 1;
	return 0;
}

/*
 * Whether the verdict could change if a workload's flow goes to this host. A route lookup may cost as much as all the rest
 * (docs/performance.md), so it is done only if a rule of that direction names host or world.
 */
static __always_inline int may_be_for_host(const struct inquiry *inquiry)
{
	return config.role == CM_ROLE_CONTAINER && inquiry->flow.direction == CM_EGRESS &&
	       (inquiry->tells_host || (inquiry->own | inquiry->any) & CM_POLICY_TELLS_HOST);
}

/*
 * Looks up whether a workload's flow goes to this host; if so, it is to be decided about once more. If the lookup can't
 * tell, it must be allowed both as the host's and as another's: the next packet of the flow may go to a neighbour's MAC.
 */
static __always_inline int turns_out_to_be_for_host(struct __sk_buff *skb, const struct packet *pkt,
						    struct inquiry *inquiry, int verdict)
{
	int remote = is_remote_host(skb, pkt);

	inquiry->is_to_host = remote == REMOTE_HOST || (remote == REMOTE_UNTOLD && !verdict);
	return inquiry->is_to_host;
}

/*
 * Whether an ICMP error at a NIC is about traffic that leaves no entry in conntrack: an error to the host about an answer
 * of a failsafe port or about what one of its sockets has sent, or an error from the host about what it forwards.
 */
static __always_inline int is_about_host(struct __sk_buff *skb, const struct packet *answer)
{
	if (packet_program(answer) == CM_TO_NETDEV)
		return !is_host_address(skb, &answer->source, &answer->destination);
	if (answer->l4_protocol == IPPROTO_UDP)
		return find_socket(skb, answer) != SOCKET_NONE;
	return answer->l4_protocol == IPPROTO_TCP &&
	       (is_failsafe(CM_INGRESS, IPPROTO_TCP, answer->dport) ||
		find_socket(skb, answer) == SOCKET_CONNECTED);
}

enum related {
	RELATED_NOT,
	RELATED_TO_NOTHING, /* to no flow that conntrack has an entry of */
	RELATED_ALLOWED,
	RELATED_STALE, /* to a flow whose entry, now in the inquiry, is of another epoch */
};

/*
 * Whether an ICMP error quotes a packet of a flow, and is addressed to that packet's sender. Afterwards quoted_packet()
 * is that packet with its ends swapped, as an answer to it would be.
 */
__noinline int quotes_flow(struct __sk_buff *skb, struct packet *pkt)
{
	struct packet *answer;

	if (!pkt || !has_policy())
		return 0;
	answer = quoted_packet();
	return answer && icmp_parse_quoted(skb, pkt, answer) >= 0 && !answer->is_flowless &&
	       words_equal(address_words(&answer->destination), address_words(&pkt->destination));
}

/* How an ICMP error relates to the flow of the packet that it quotes, which is in the inquiry now. */
static __always_inline enum related related_to(const struct packet *pkt,
					       const struct inquiry *inquiry)
{
	if (!inquiry->place || !ct_is_alive(inquiry->expires))
		return RELATED_TO_NOTHING;
	if (ct_epoch(inquiry->flow.verdict) != pkt->epoch)
		return RELATED_STALE;
	/* An entry that audit made for a denied flow does not count, as in recognise(). */
	return ct_is_denied(inquiry->flow.verdict) ? RELATED_TO_NOTHING : RELATED_ALLOWED;
}

/* Whether an ICMP error is about a flow that is allowed. If the flow's entry is stale, the rules are asked again. */
static __always_inline int is_related(struct __sk_buff *skb, struct packet *pkt,
				      struct inquiry *inquiry)
{
	struct packet *answer = quoted_packet();
	int related = RELATED_NOT;
	int verdict;

	if (quotes_flow(skb, pkt) && answer) {
		/* From here, for its stack. */
		find_flow(answer, inquiry, packet_direction(pkt));
		barrier();
		related = related_to(pkt, inquiry);
	}
	barrier();
	if (related == RELATED_STALE && answer) {
		verdict = decide_again(answer, inquiry);
		barrier();
		if (may_be_for_host(inquiry) &&
		    turns_out_to_be_for_host(skb, answer, inquiry, verdict))
			verdict = decide_again(answer, inquiry);
		related = !verdict			       ? RELATED_ALLOWED :
			  is_enforced(inquiry->flow.direction) ? RELATED_NOT :
								 RELATED_TO_NOTHING;
	}
	barrier();
	if (related == RELATED_TO_NOTHING && config.role == CM_ROLE_NETDEV && answer)
		related = is_about_host(skb, answer) ? RELATED_ALLOWED : RELATED_NOT;
	barrier();
	inquiry->flow.direction = packet_direction(pkt);
	inquiry->is_to_host = 0;
	return related == RELATED_ALLOWED;
}

/* The verdict on a packet that belongs to no flow: most of ICMP, IGMP, and what could not be parsed. */
static __always_inline int decide_alone(struct __sk_buff *skb, struct packet *pkt,
					struct inquiry *inquiry)
{
	int verdict, is_asked;

	inquiry->is_news = 1;
	if (pkt->parse_error)
		return pkt->parse_error;
	/* The rules are asked even if an exception below decides: the report names the identity at the other end. */
	inquiry->flow.claimed_identity = claimed_identity(skb, pkt);
	verdict = decide(pkt, inquiry, packet_direction(pkt));
	is_asked = may_be_for_host(inquiry);
	if (icmp_keeps_link_up(skb, pkt)) {
		pkt->rule = CM_RULE_ICMP;
		return 0;
	}
	if (igmp_keeps_link_up(skb, pkt)) {
		pkt->rule = CM_RULE_IGMP;
		return 0;
	}
	if (icmp_is_forbidden(pkt)) {
		pkt->rule = CM_RULE_NONE;
		return -CM_DROP_FORBIDDEN_ICMP6;
	}
	if (icmp_is_error(pkt) && is_related(skb, pkt, inquiry)) {
		pkt->rule = CM_RULE_RELATED;
		return 0;
	}
	barrier();
	if (is_asked && turns_out_to_be_for_host(skb, pkt, inquiry, verdict))
		verdict = decide_for_many(skb, pkt, inquiry, verdict,
					  decide(pkt, inquiry, packet_direction(pkt)));
	return verdict;
}

/* The verdict on a flow that is new, or whose entry is stale. */
static __always_inline int decide_flow(struct __sk_buff *skb, struct packet *pkt,
				       struct inquiry *inquiry)
{
	struct cm_flow *flow = &inquiry->flow;
	int forward = flow->direction == packet_direction(pkt);
	int verdict;

	if (packet_direction(pkt) == CM_INGRESS && (forward || flow->adopted))
		flow->claimed_identity = claimed_identity(skb, pkt);
	if (!flow->verdict && may_be_adopted(skb, pkt))
		flow->adopted = CM_CT_ADOPTED_UNKNOWN;
	/* Until the peer sends something that tells its identity. */
	if (config.role == CM_ROLE_CONTAINER && flow->adopted && !flow->claimed_identity)
		flow->claimed_identity = IDENTITY_WORLD;
	verdict = decide_again(pkt, inquiry);
	barrier();
	/*
	 * DHCP passes whatever the rules said; they were asked so that the report names the identity at the other
	 * end. A reply of a flow that DHCP's exception has allowed passes, too.
	 */
	if (config.role == CM_ROLE_CONTAINER && has_dhcp_ports(pkt) &&
	    ((!forward && flow->rule == CM_RULE_DHCP) || keeps_lease(skb, pkt))) {
		pkt->rule = CM_RULE_DHCP;
		return 0;
	}
	if (config.role == CM_ROLE_NETDEV && verdict == -CM_DROP_INVALID_SOURCE &&
	    !has_listed_source(skb, pkt)) {
		flow->claimed_identity = (__u32)ipcache_lookup_prefix(&pkt->source);
		verdict = decide_again(pkt, inquiry);
	}
	barrier();
	if (may_be_for_host(inquiry) && turns_out_to_be_for_host(skb, pkt, inquiry, verdict))
		verdict = decide_for_many(skb, pkt, inquiry, verdict, decide_again(pkt, inquiry));
	return verdict;
}

#endif
