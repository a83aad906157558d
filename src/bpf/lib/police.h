/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The verdict on a packet. An established flow costs one lookup in conntrack; everything else goes
 * through police_slowly(), and is decided in decide.h.
 *
 * The functions here and there are global ones, because they are off the fast path and the verifier
 * walks such a one by itself and once, not its every outcome through all that follows: inline they
 * were 160 thousand instructions walked.
 */
#ifndef CILMARK_POLICE_H
#define CILMARK_POLICE_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "conntrack.h"
#include "decide.h"
#include "events.h"
#include "explain.h"
#include "failsafe.h"
#include "forwarded.h"
#include "fragment.h"
#include "host.h"
#include "icmp.h"
#include "metrics.h"
#include "packet.h"
#include "policy.h"
#include "resolve.h"

/* Tells of an entry of conntrack or its absence, and whether the packet goes on with it. */
__noinline int step_ct(const struct packet *pkt, const struct cm_ct_entry *entry, int is_known)
{
	__u64 seen = 0;

	if (!config.explain || !pkt)
		return 0;
	if (!entry)
		return write_step(CM_CALL_CT_LOOKUP, NULL, 0, 0, 0);
	seen |= CM_CT_SEEN_ENTRY;
	seen |= is_known ? CM_CT_SEEN_VALID : 0;
	seen |= entry->direction != packet_direction(pkt) ? CM_CT_SEEN_REPLY : 0;
	seen |= entry->verdict >> 32 != pkt->epoch ? CM_CT_SEEN_STALE : 0;
	seen |= entry->adopted ? CM_CT_SEEN_ADOPTED : 0;
	seen |= entry->masqueraded ? CM_CT_SEEN_MASQUERADED : 0;
	return write_step(CM_CALL_CT_LOOKUP, NULL, entry->verdict, seen | entry->state << 16,
			  entry->expires - bpf_jiffies64());
}

/*
 * Counts and reports a verdict; what becomes of the packet: 0, or the reason to drop it, which then
 * reports that.
 */
__noinline int conclude(struct __sk_buff *skb, struct packet *pkt, enum cm_direction direction,
			int verdict, int is_news)
{
	int enforced = is_enforced(direction);

	if (!pkt)
		return verdict;
	step(CM_CALL_CONCLUDE, NULL, -verdict, pkt->rule, enforced);
	if (!config.explain)
		count_rule(skb, pkt->rule);
	pkt->audited = verdict && !enforced;
	if (pkt->audited)
		count_aside(pkt, CM_AUDITED);
	if (verdict && enforced)
		return verdict;
	if (is_news && (pkt->audited || (config.policy_verdict_log >> direction & 1 && tracing())))
		send_event(skb, pkt, CM_EVENT_POLICY_VERDICT, -verdict);
	return 0;
}

__noinline int write_entry(struct packet *pkt, struct cm_ct_entry *flow, int is_new)
{
	struct cm_ct_entry entry;
	struct tuple tuple;
	long error;

	if (!pkt || !flow || !has_policy())
		return 0;
	if (config.explain)
		return write_step(CM_CALL_CT_CREATE, NULL, is_new, 0, 0);
	ct_advance(flow, pkt);
	entry = *flow; /* on the stack, for Linux 6.1: see ipcache_lookup() */
	tuple = tuple_of(pkt, packet_direction(pkt));
	error = ct_write(&tuple, &entry);
	if (error || (is_new && !config.ct_local))
		count_aside(pkt, error ? CM_CT_FAILED : CM_CT_CREATED);
	return 0;
}

/* Whether a NIC's policy has a say: the host's own packets and those for it, not what it forwards. */
static __always_inline int is_policed(struct __sk_buff *skb, struct packet *pkt)
{
	return packet_program(pkt) == CM_FROM_NETDEV ? is_for_host(skb, pkt) :
						       is_host_traffic(skb, pkt);
}

/* A packet with a place in a flow. */
static __always_inline int has_flow(const struct packet *pkt)
{
	return !pkt->parse_error && !pkt->is_flowless;
}

/* A packet that tells nothing new of its flow, if that is an established one. */
static __always_inline int is_plain(const struct packet *pkt)
{
	return !(pkt->fragment | pkt->parse_error | pkt->is_flowless |
		 (pkt->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
}

/* The host's own flow, under a name that masquerade has given to a workload's since. */
static __always_inline int is_left_over(const struct __sk_buff *skb, const struct packet *pkt,
					const struct cm_ct_entry *entry)
{
	return entry->direction == CM_EGRESS && !entry->masqueraded && !is_from_stack(skb, pkt);
}

/* What conntrack has under the name of a packet's flow. */
enum found {
	FOUND_NOTHING,
	FOUND_FLOW,
	FOUND_ANOTHER, /* an older flow, in whose place this one comes */
	FOUND_CURRENT, /* the flow, allowed by the rules of today; its entry knows of this packet already */
};

/* Under this host's address, and with an answer to come. */
static __always_inline int begins_masquerade(struct __sk_buff *skb, const struct packet *pkt)
{
	return packet_program(pkt) == CM_TO_NETDEV && has_flow(pkt) &&
	       pkt->fragment != FRAGMENT_LATER && is_masqueraded(skb, pkt);
}

/*
 * Whether the policy has no say in a packet without a flow. If that is a workload's under this host's
 * address, the answer shall not meet the host's policy either.
 */
__noinline int passes_by(struct __sk_buff *skb, struct packet *pkt, enum found found)
{
	struct cm_ct_entry flow = { .direction = CM_EGRESS, .masqueraded = 1 };
	__u64 moment;

	if (!pkt || config.role == CM_ROLE_CONTAINER)
		return 0;
	moment = forwarded_moment(pkt->epoch, bpf_jiffies64());
	if (is_policed(skb, pkt))
		return 0;
	flow.verdict = ct_verdict(moment >> 32, CM_RULE_MASQUERADED, 1);
	if (begins_masquerade(skb, pkt))
		write_entry(pkt, &flow, found == FOUND_NOTHING);
	else if (found == FOUND_NOTHING && is_plain(pkt))
		remember_forwarded(skb, pkt, moment);
	return 1;
}

/* The host's own packet under a name that it had lent to a workload's flow. */
static __always_inline int is_taken_back(const struct __sk_buff *skb,
					 const struct cm_ct_entry *entry)
{
	return entry->masqueraded && is_generated_here(skb);
}

/* Copies the entry of a packet's flow, or begins a new one; what was found. */
__noinline int find_flow(struct __sk_buff *skb, struct packet *pkt, struct cm_ct_entry *flow)
{
	enum found found = FOUND_FLOW;
	struct cm_ct_entry *entry;
	struct tuple tuple;
	int is_known;

	if (!pkt || !flow || !has_policy())
		return FOUND_NOTHING;
	*flow = (struct cm_ct_entry){ .direction = packet_direction(pkt) };
	tuple = tuple_of(pkt, packet_direction(pkt));
	entry = ct_lookup(&tuple);
	/*
	 * What audit has let pass is nothing to enforcement, which would have left no entry: of a
	 * datagram's flow nobody knows who began, and the other direction's rules may allow it.
	 */
	is_known = entry && ct_is_alive(entry) && !ct_begins_anew(entry, pkt) &&
		   (entry->verdict & 1 || !is_enforced(entry->direction)) &&
		   !(packet_program(pkt) == CM_TO_NETDEV &&
		     (is_taken_back(skb, entry) || is_left_over(skb, pkt, entry)));
	if (config.explain)
		step_ct(pkt, entry, is_known);
	if (!is_known)
		return entry ? FOUND_ANOTHER : FOUND_NOTHING;
	/*
	 * In place: to replace an entry costs as much as all the rest. Never its verdict, since the place may
	 * be another flow's by the time it is written.
	 */
	if (!config.explain && ct_is_allowed(entry->verdict, pkt->epoch) &&
	    !ct_may_end(entry, pkt)) {
		ct_advance(entry, pkt);
		found = FOUND_CURRENT;
	}
	*flow = *entry;
	return found;
}

/*
 * Whether a packet says nothing of who began its connection. Denied in audit, it leaves no entry, as
 * if it had been dropped: the guess would stay, and hide that the other direction's rules allow it.
 */
static __always_inline int is_midstream(const struct packet *pkt)
{
	return pkt->l4_protocol == IPPROTO_TCP && !is_syn(pkt);
}

/* About a flow that is new, or known and to be decided about again, or denied. */
__noinline int police_flow(struct __sk_buff *skb, struct packet *pkt, struct cm_ct_entry *flow,
			   enum found found)
{
	int enforced, verdict = 0, is_news = 0;

	if (!pkt || !flow)
		return -CM_DROP_INVALID_PACKET;
	enforced = is_enforced(flow->direction);
	pkt->rule = ct_rule(flow->verdict);
	if (found != FOUND_FLOW && is_failsafe_answer(pkt)) {
		pkt->rule = CM_RULE_FAILSAFE;
		return conclude(skb, pkt, flow->direction, 0, 0);
	}
	if (flow->verdict >> 32 != pkt->epoch) {
		is_news = 1;
		verdict = decide_flow(skb, pkt, flow);
		/* A reply can't tell whether the sender still claims the same identity. */
		if (flow->direction == packet_direction(pkt) || !flow->claimed_identity ||
		    flow->adopted)
			flow->verdict = ct_verdict(pkt->epoch, pkt->rule, !verdict);
	} else if (!(flow->verdict & 1)) {
		verdict = pkt->rule ? -CM_DROP_POLICY_DENY : -CM_DROP_POLICY;
	}
	if (!verdict || (!enforced && (found == FOUND_FLOW || !is_midstream(pkt))))
		write_entry(pkt, flow, found == FOUND_NOTHING);
	return conclude(skb, pkt, flow->direction, verdict, is_news);
}

/* Everything but the next packet of a settled flow. */
__noinline int police_slowly(struct __sk_buff *skb, struct packet *pkt)
{
	struct cm_ct_entry flow = {};
	enum found found = FOUND_NOTHING;
	int verdict = 0;

	/* Without a policy there are no maps for it either. */
	if (!pkt || !has_policy())
		return -CM_DROP_INVALID_PACKET;
	step(CM_CALL_POLICE, NULL, 0, 0, 0);
	if (pkt->fragment == FRAGMENT_LATER)
		verdict = fragment_find_ports(pkt);
	if (has_flow(pkt) && !verdict)
		found = find_flow(skb, pkt, &flow);
	if (found != FOUND_FLOW && found != FOUND_CURRENT && passes_by(skb, pkt, found)) {
		step(CM_CALL_KEEP_MASQUERADED, NULL, 0, 0, 0);
		return 0;
	}
	if (verdict)
		return conclude(skb, pkt, packet_direction(pkt), verdict, 0);
	if (!has_flow(pkt))
		return conclude(skb, pkt, packet_direction(pkt), decide_alone(skb, pkt), 1);
	if (found == FOUND_CURRENT) {
		pkt->rule = ct_rule(flow.verdict);
		verdict = conclude(skb, pkt, flow.direction, 0, 0);
	} else {
		verdict = police_flow(skb, pkt, &flow, found);
	}
	if (verdict == 0 && pkt->fragment == FRAGMENT_FIRST)
		fragment_keep_ports(pkt);
	return verdict;
}

__noinline int explain_settled(const struct packet *pkt, const struct cm_ct_entry *entry)
{
	if (!pkt)
		return 0;
	step(CM_CALL_POLICE, NULL, 0, 0, 0);
	step_ct(pkt, entry, 1);
	step(CM_CALL_CONCLUDE, NULL, 0, pkt->rule, 1);
	return 0;
}

/*
 * 0, or the negative reason for which the packet is to be dropped. `direction` is the packet's, as
 * a constant.
 */
static __always_inline int police(struct __sk_buff *skb, struct packet *pkt,
				  enum cm_direction direction)
{
	struct cm_ct_entry *entry;
	struct tuple tuple;
	__u64 now, expires;

	if (!has_policy() || !packet_is_ip(pkt))
		return 0;
	/* Before the rules are asked: if they change meanwhile, what they say is stale at once. */
	pkt->epoch = policy_epoch();
	/* Read back from memory, it is one state to the verifier instead of six. */
	barrier();
	if (!is_plain(pkt))
		return police_slowly(skb, pkt);
	/* All that can be known before the lookup: behind it the verifier walks each family. */
	now = bpf_jiffies64();
	expires = now + ct_established_lifetime(pkt);
	tuple = tuple_of(pkt, direction);
	entry = ct_lookup(&tuple);
	if (!entry)
		return config.role == CM_ROLE_NETDEV &&
				       is_known_forwarded(skb, pkt,
							  forwarded_moment(pkt->epoch, now)) ?
			       0 :
			       police_slowly(skb, pkt);
	if (!ct_is_settled(entry, pkt->epoch, now) ||
	    (config.role == CM_ROLE_NETDEV && direction == CM_EGRESS && is_taken_back(skb, entry)))
		return police_slowly(skb, pkt);
	pkt->rule = ct_rule(entry->verdict);
	pkt->is_settled = 1;
	if (config.explain)
		return explain_settled(pkt, entry);
	if (config.role == CM_ROLE_NETDEV && entry->masqueraded)
		expires = now + ct_lifetime(entry, pkt->l4_protocol);
	/* At most once a second, for the sake of the other CPUs' caches. */
	if (expires - entry->expires >= config.jiffies_per_second)
		entry->expires = expires;
	count_rule(skb, pkt->rule);
	return 0;
}

#endif
