/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What is to be said about a flow, or about a packet of none: by the rules, and by what stands beside
 * them. Verdicts are 0 or a negative reason; what gave them stands in pkt->rule.
 */
#ifndef CILMARK_DECIDE_H
#define CILMARK_DECIDE_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "conntrack.h"
#include "explain.h"
#include "failsafe.h"
#include "icmp.h"
#include "identity.h"
#include "inquiry.h"
#include "ipcache.h"
#include "packet.h"
#include "policy.h"
#include "resolve.h"

/* Which service of the flow's responder it is for: its port, or the type of ICMP message. */
static __always_inline __be16 service_of(const struct packet *pkt, int forward)
{
	if (!is_icmp(pkt))
		return forward ? pkt->dport : pkt->sport;
	if (forward || pkt->icmp_type != echo_reply_of(pkt->l4_protocol))
		return bpf_htons(pkt->icmp_type);
	return bpf_htons(echo_request_of(pkt->l4_protocol));
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
	peer = direction == CM_EGRESS ? ipcache_identity(remote) :
					source_identity(remote, inquiry->flow.claimed_identity);
	if (packet_direction(pkt) == CM_EGRESS)
		pkt->destination_identity = peer;
	else
		pkt->source_identity = peer;
	port = service_of(pkt, forward);
	verdict = ask_policy(pkt, inquiry, direction, peer, port);
	step(CM_CALL_POLICY_LOOKUP, NULL,
	     direction << 24 | pkt->l4_protocol << 16 | bpf_ntohs(port), peer, -verdict);
	return verdict;
}

/*
 * About a flow of which nobody saw who began: allowed if the rules of either direction allow it, or
 * if none denies it.
 */
static __always_inline int decide_adopted(struct packet *pkt, struct inquiry *inquiry)
{
	int received = decide(pkt, inquiry, CM_INGRESS);
	__u32 rule = pkt->rule;
	int sent = received ? decide(pkt, inquiry, CM_EGRESS) : 0;

	if (!received || !sent || sent == -CM_DROP_POLICY_DENY)
		return sent;
	if (received != -CM_DROP_POLICY_DENY) {
		pkt->rule = CM_RULE_ADOPTED;
		return 0;
	}
	pkt->rule = rule;
	return received;
}

/* Whether a TCP flow that nobody knows may be older than its policy. */
static __always_inline int may_be_adopted(const struct packet *pkt)
{
	return config.adopt_until_ns && pkt->l4_protocol == IPPROTO_TCP &&
	       !(pkt->tcp_flags & TCP_SYN) && bpf_ktime_get_coarse_ns() < config.adopt_until_ns;
}

/* Whether an ICMP error is about a flow that is allowed. */
__noinline int is_related(struct __sk_buff *skb, struct packet *pkt)
{
	struct cm_ct_entry *entry;

	if (!pkt || !has_policy())
		return 0;
	entry = icmp_related_entry(skb, pkt);
	return entry && ct_is_alive(entry) && ct_is_allowed(entry->verdict, pkt->epoch);
}

/* About a packet that belongs to no flow of its own: 0, or a negative reason. */
static __always_inline int decide_alone(struct __sk_buff *skb, struct packet *pkt,
					struct inquiry *inquiry)
{
	int verdict;

	inquiry->is_news = 1;
	if (pkt->parse_error)
		return pkt->parse_error;
	if (icmp_is_forbidden(pkt))
		return -CM_DROP_FORBIDDEN_ICMP6;
	/* Whatever the rules say: the report names who is at the other end. */
	inquiry->flow.claimed_identity = claimed_identity(skb, pkt);
	verdict = decide(pkt, inquiry, packet_direction(pkt));
	if (icmp_always_passes(pkt)) {
		pkt->rule = CM_RULE_ICMP;
		return 0;
	}
	if (icmp_is_error(pkt) && is_related(skb, pkt)) {
		pkt->rule = CM_RULE_RELATED;
		return 0;
	}
	return verdict;
}

/* About a flow that is new, or whose entry does not settle it. */
static __always_inline int decide_flow(struct __sk_buff *skb, struct packet *pkt,
				       struct inquiry *inquiry)
{
	struct cm_ct_entry *flow = &inquiry->flow;
	int forward;

	if (flow->masqueraded) {
		pkt->rule = CM_RULE_MASQUERADED;
		return 0;
	}
	forward = flow->direction == packet_direction(pkt);
	if (packet_direction(pkt) == CM_INGRESS && (forward || flow->adopted))
		flow->claimed_identity = claimed_identity(skb, pkt);
	if (is_failsafe(flow->direction, pkt->l4_protocol, service_of(pkt, forward))) {
		pkt->rule = CM_RULE_FAILSAFE;
		return 0;
	}
	if (!flow->verdict && may_be_adopted(pkt)) {
		flow->adopted = 1;
		/* Until its peer sends, and says who it is. */
		if (config.role == CM_ROLE_CONTAINER && !flow->claimed_identity)
			flow->claimed_identity = IDENTITY_WORLD;
	}
	if (flow->adopted)
		return decide_adopted(pkt, inquiry);
	return decide(pkt, inquiry, flow->direction);
}

#endif
