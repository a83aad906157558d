/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The verdict on a packet. An established flow costs one lookup in conntrack; everything else goes
 * through slow_path(), by the rules and exceptions of policy.h.
 *
 * Of the functions here and there some are global ones, because they are off the fast path and the
 * verifier walks such a one by itself and once, not its every outcome through all that follows: all
 * inline they were 160 thousand instructions walked. Each costs 6 ns, so that they are few.
 */
#ifndef CILMARK_VERDICT_H
#define CILMARK_VERDICT_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/explain.h"
#include "abi/maps.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "conntrack.h"
#include "policy.h"
#include "events.h"
#include "explain.h"
#include "failsafe.h"
#include "forwarded.h"
#include "fragment.h"
#include "host.h"
#include "icmp.h"
#include "policy_ctx.h"
#include "metrics.h"
#include "packet.h"
#include "policy_map.h"
#include "question.h"
#include "resolve.h"
#include "socket.h"

/* Tells which directions are enforced now. */
static __always_inline void step_policy(const struct policy_ctx *ctx)
{
	if (config.explain)
		write_step(CM_CALL_POLICY_VERDICT, NULL, is_enforced(ctx, CM_INGRESS),
			   is_enforced(ctx, CM_EGRESS), 0);
}

/* Tells of a flow that conntrack knows, or of none, and whether the packet goes on with it, as the same sender's. */
__noinline int step_ct(const struct packet *pkt, const struct policy_ctx *ctx, int is_known,
		       int is_same)
{
	const struct cm_flow *flow;
	__u64 seen = 0;

	if (!config.explain || !pkt || !ctx)
		return 0;
	if (!ctx->place)
		return write_step(CM_CALL_CT_LOOKUP, NULL, 0, 0, 0);
	flow = &ctx->flow;
	seen |= CM_CT_SEEN_ENTRY;
	seen |= is_known ? CM_CT_SEEN_VALID : 0;
	seen |= flow->direction != packet_direction(pkt) ? CM_CT_SEEN_REPLY : 0;
	seen |= ct_epoch(flow->verdict) != pkt->verdict.epoch ? CM_CT_SEEN_STALE : 0;
	seen |= is_same ? 0 : CM_CT_SEEN_ANOTHER;
	seen |= flow->picked_up ? CM_CT_SEEN_PICKED_UP : 0;
	seen |= flow->masqueraded ? CM_CT_SEEN_MASQUERADED : 0;
	seen |= ct_denied(flow->verdict) & own_slot() ? CM_CT_SEEN_DENIED : 0;
	return write_step(CM_CALL_CT_LOOKUP, NULL, flow->rule, seen | flow->state << 16,
			  (__u64)(ctx->expires - flow_now()) << CM_FLOW_TICK_SHIFT);
}

/*
 * Counts and reports the verdict; what becomes of the packet: 0, or the reason to drop it, which then
 * reports that.
 */
static __always_inline int finish_verdict(struct __sk_buff *skb, struct packet *pkt,
					  const struct policy_ctx *ctx)
{
	enum cm_direction direction = ctx->flow.direction & 1;
	int enforced = ctx->is_enforced;
	int verdict = ctx->verdict;

	step(CM_CALL_FINISH_VERDICT, NULL, -verdict, pkt->verdict.rule, enforced);
	if (!config.explain)
		count_rule(skb, pkt->verdict.rule);
	pkt->verdict.audited = verdict && !enforced;
	if (pkt->verdict.audited)
		counter_add(pkt, CM_COUNTER_AUDITED);
	if (verdict && enforced)
		return verdict;
	if (ctx->log_verdict &&
	    (pkt->verdict.audited || (config.policy_verdict_log >> direction & 1 && tracing())))
		send_event(skb, pkt, CM_EVENT_POLICY_VERDICT, -verdict);
	return 0;
}

/* Writes an entry, and counts who had to give way, or that there was no room. */
static __always_inline void put_flow(const struct packet *pkt, const union flow_key *key,
				     struct policy_ctx *ctx)
{
	int put = FLOW_FULL;

	ctx->class = ct_class(&ctx->flow);
	barrier();
#pragma clang loop unroll(disable)
	for (int i = 0; i < FLOW_TRIES; i++) {
		put = ct_put(key, pkt->source.family == CM_IPV6, ctx);
		if (put == FLOW_PUT)
			break;
	}
	if (put != FLOW_PUT)
		counter_add(pkt, CM_COUNTER_FLOW_FAILED);
	else if (ctx->displaced)
		counter_add(pkt, CM_COUNTER_DISPLACED_OVER - 1 + ctx->displaced);
}

/*
 * Keeps what has come of a packet in its flow, and if the packet is a question to many, that it may be answered. A global
 * function for the verifier.
 */
__noinline int write_flow(struct __sk_buff *skb, const struct packet *pkt, union flow_key *key,
			  struct policy_ctx *ctx)
{
	int asks;

	if (!pkt || !key || !ctx || !has_policy())
		return 0;
	asks = is_question(skb, pkt, ctx);
	ctx->where.scope = scope_byte(ct_scope());
	if (ctx->create_ct) {
		ct_advance(ctx, pkt);
		ctx->flow.state |= asks * CM_CT_ASKS;
		put_flow(pkt, key, ctx);
	}
	barrier();
	if (asks) {
		question_begins(pkt, key, ctx);
		put_flow(pkt, key, ctx);
	}
	return 0;
}

/* Whether a NIC's policy has a say: the host's own packets and those for it, not what it forwards. */
static __always_inline int host_policy_applies(struct __sk_buff *skb, struct packet *pkt)
{
	return packet_program(pkt) == CM_FROM_NETDEV ? is_for_host(skb, pkt) :
						       is_host_traffic(skb, pkt);
}

/* A packet with a place in a flow. */
static __always_inline int has_flow(const struct packet *pkt)
{
	return !pkt->parse_error && !pkt->is_flowless;
}

/* One that shows the flow by itself. */
static __always_inline int shows_flow(const struct packet *pkt)
{
	return has_flow(pkt) && pkt->fragment != FRAGMENT_LATER;
}

/* A packet that tells nothing new of its flow, if that is an established one. */
static __always_inline int is_plain(const struct packet *pkt)
{
	return !(pkt->fragment | pkt->parse_error | pkt->is_flowless |
		 (pkt->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));
}

/* The host's own flow, on a 5-tuple that masquerade has given to a workload's since. */
static __always_inline int is_left_over(const struct __sk_buff *skb, const struct packet *pkt,
					const struct cm_flow *flow)
{
	return flow->direction == CM_EGRESS && !flow->masqueraded && !is_from_stack(skb, pkt);
}

/*
 * Whether a packet, under this host's address, begins a masqueraded flow: with an answer to come. By IPv6
 * whoever sends from that address by a device that is not attached looks the same, and so does a guest of a
 * bridge who has taken the bridge's MAC, too: it would open a port of this host to who is at the other end. So not
 * if a socket waits there, but for a trusted proxy's own.
 */
static __always_inline int begins_masquerade(struct __sk_buff *skb, const struct packet *pkt)
{
	int is_proxys =
		config.trust_proxy && mark_is_proxy(pkt->mark_in) && is_generated_here(skb, pkt);
	int may_be_forged =
		!is_proxys &&
		(config.bridge_port ||
		 (pkt->source.family == CM_IPV6 &&
		  !(mark_is_proven(skb) && mark_magic(pkt->mark_in) == MARK_MAGIC_IDENTITY)));

	return has_flow(pkt) && pkt->fragment != FRAGMENT_LATER && pkt->echo != ECHO_ANSWERED &&
	       !(may_be_forged && find_socket(skb, pkt) != SOCKET_NONE);
}

/*
 * Whether a frame whose tags are too many to be taken off is for this host, or from it. Its VLAN's device
 * may have a MAC of its own.
 */
static __always_inline int is_unread_for_host(struct __sk_buff *skb, const struct packet *pkt)
{
	if (pkt->parse_error != -CM_DROP_UNKNOWN_L3)
		return 0;
	if (packet_program(pkt) == CM_TO_NETDEV)
		return is_generated_here(skb, pkt);
	return !config.bridge_port || !is_for_another(skb);
}

/*
 * Whether a packet comes from the wire under an address of this host, as far as its flow's peer is not asked
 * about: that is policy_check()'s.
 */
static __always_inline int claims_host(struct __sk_buff *skb, struct packet *pkt, int is_for_host)
{
	if (packet_program(pkt) != CM_FROM_NETDEV || policy_mode(CM_INGRESS) == CM_POLICY_OFF)
		return 0;
	if (is_for_host)
		return !config.accept_local && is_own_address(&pkt->source) &&
		       has_listed_source(skb, pkt);
	return has_host_source(skb, pkt) ||
	       (refuses_host() && is_listed_host(&pkt->source) && has_listed_source(skb, pkt));
}

/*
 * Whether a packet is one of who begins a flow, and no answer: SNAT has given it a foreign address. Of UDP the
 * port tells, of which a client's is from 32768 on (ip_local_port_range).
 */
static __always_inline int begins_as_client(const struct packet *pkt)
{
	return is_syn(pkt) || (pkt->l4_protocol == IPPROTO_UDP && bpf_ntohs(pkt->sport) >= 32768);
}

/*
 * Whether what this host sends answers what no policy of a NIC was asked about, since it came for another's address
 * and NAT has redirected it to a service of this host.
 */
static __always_inline int is_answer_of_redirect(struct __sk_buff *skb, const struct packet *pkt)
{
	long route;

	if (packet_program(pkt) != CM_TO_NETDEV || !is_generated_here(skb, pkt) ||
	    is_listed(&pkt->source) || is_multicast(&pkt->source) ||
	    is_never_routed(&pkt->source) || begins_as_client(pkt) ||
	    !answers_for_another(skb, pkt))
		return 0;
	route = route_of(skb, &pkt->source, &pkt->destination, 0);
	return route != BPF_FIB_LKUP_RET_FWD_DISABLED &&
	       !route_is_local(skb, &pkt->source, &pkt->destination, route);
}

/*
 * Whether the policy of a NIC has no say in a packet without a flow. If that is a workload's under this
 * host's address, the answer shall not meet the host's policy either.
 */
__noinline int bypasses_host_policy(struct __sk_buff *skb, struct packet *pkt,
				    struct policy_ctx *ctx)
{
	__u64 moment;
	int is_for_host;

	if (!pkt || !ctx)
		return 0;
	if (!packet_is_ip(pkt)) {
		step_begin(); /* CM_CALL_KEEP_MASQUERADED: slow_path() ends it */
		return !is_unread_for_host(skb, pkt);
	}
	moment = forwarded_moment(pkt);
	is_for_host = host_policy_applies(skb, pkt);
	step_begin();
	if (claims_host(skb, pkt, is_for_host)) {
		ctx->verdict = -CM_DROP_INVALID_SOURCE;
		ctx->log_verdict = 1;
		return 0;
	}
	if (is_for_host)
		return is_answer_of_redirect(skb, pkt);
	if (is_masqueraded(skb, pkt)) {
		if (begins_masquerade(skb, pkt)) {
			ctx->flow.masqueraded = 1;
			ctx->flow.verdict = ct_verdict(pkt->verdict.epoch, 1);
			ct_keep_rule(&ctx->flow, config.nic_slot, CM_RULE_MASQUERADED, 0);
			ctx->create_ct = 1;
		}
	} else if (ctx->ct == CT_MISS && is_plain(pkt) && !pkt->verdict.is_stacks) {
		remember_forwarded(skb, pkt, moment);
	}
	return 1;
}

/* The host's own packet on the 5-tuple of a masqueraded flow. */
static __always_inline int is_taken_back(const struct __sk_buff *skb, const struct packet *pkt,
					 const struct cm_flow *flow)
{
	return flow->masqueraded && is_generated_here(skb, pkt);
}

/*
 * Whether nothing is to be found out about a flow by one of its packets, but for what the packet tells of its progress. What
 * other NICs only audit is theirs.
 */
static __always_inline int is_current(const struct packet *pkt, const struct cm_flow *flow)
{
	__u64 others = config.role == CM_ROLE_NETDEV ? 0xffff & ~own_slot() : 0;

	return ct_is_allowed(flow->verdict & ~others, pkt->verdict.epoch,
			     packet_direction(pkt) ^ flow->direction);
}

/* Takes a packet for the first one of a flow. */
static __always_inline void begin_flow(const struct packet *pkt, struct policy_ctx *ctx)
{
	ctx->ct = ctx->place ? CT_REPLACED : CT_MISS;
	ctx->flow = (struct cm_flow){
		.direction = packet_direction(pkt),
		.born = flow_now(),
	};
	ctx->expires = 0;
}

/*
 * Whether other NICs may still use the entry of an older flow, so that a NIC that only audits must not replace it. A
 * masqueraded flow may be answered by any NIC.
 */
static __always_inline int is_in_use(const struct policy_ctx *ctx)
{
	const struct cm_flow *flow = &ctx->flow;

	return config.role == CM_ROLE_NETDEV && ctx->place && ct_is_alive(ctx->expires) &&
	       !(flow->state & CM_CT_CLOSING) &&
	       (flow->masqueraded || other_nics(flow) & ~ct_denied(flow->verdict));
}

/* Looks for a packet's flow. */
static __always_inline void lookup_flow(struct __sk_buff *skb, struct packet *pkt,
					struct policy_ctx *ctx)
{
	struct cm_flow *flow = &ctx->flow;
	int is_known, is_same;

	if (ctx->place == CT_NOT_READ)
		find_flow(pkt, ctx, packet_direction(pkt));
	barrier();
	/*
	 * What audit has let pass is nothing to enforcement, which would have left no entry: of a
	 * datagram's flow nobody knows who began, and the other direction's rules may allow it.
	 */
	is_known =
		ctx->place && ct_is_alive(ctx->expires) && !ct_begins_anew(flow, pkt) &&
		(!(ct_denied(flow->verdict) & own_slot()) || !is_enforced(ctx, flow->direction)) &&
		!(packet_program(pkt) == CM_TO_NETDEV &&
		  (is_taken_back(skb, pkt, flow) || is_left_over(skb, pkt, flow)));
	is_same = !is_known || !claims_another(skb, pkt, flow);
	if (config.explain)
		step_ct(pkt, ctx, is_known, is_same);
	if (!is_known) {
		ctx->is_in_use = is_in_use(ctx);
		begin_flow(pkt, ctx);
		return;
	}
	/* Of no epoch, so that the rules are asked. */
	if (!is_same)
		flow->verdict = (__u32)flow->verdict;
	ctx->ct = is_current(pkt, flow) ? CT_FRESH : CT_KNOWN;
}

/*
 * Whether a packet says nothing of who began its flow. Denied in audit, it leaves no entry, as if it had
 * been dropped: the guess would stay, and hide that the other direction's rules allow it.
 */
static __always_inline int is_midstream(const struct packet *pkt)
{
	return (pkt->l4_protocol == IPPROTO_TCP && !is_syn(pkt)) || pkt->echo == ECHO_ANSWERED;
}

/*
 * Whether a packet begins no flow: it answers what was not seen here, resets it, or continues its first fragment. With an
 * entry the far end's next segment would pass as an answer to it, though no rule has ever allowed what that belongs to.
 */
static __always_inline int begins_nothing(const struct packet *pkt)
{
	return pkt->echo == ECHO_ANSWERED || pkt->fragment == FRAGMENT_LATER ||
	       pkt->tcp_flags & TCP_RST ||
	       (pkt->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);
}

/* Whether what was found out about a flow is good for its next packet: an answer can't tell who its sender claims to be. */
static __always_inline int is_for_good(const struct packet *pkt, const struct cm_flow *flow)
{
	return flow->direction == packet_direction(pkt) || !flow->claimed_identity ||
	       flow->picked_up;
}

/* Asks this policy about a flow, and keeps what it says. */
static __always_inline void ask_about_flow(struct __sk_buff *skb, struct packet *pkt,
					   struct policy_ctx *ctx)
{
	struct cm_flow *flow = &ctx->flow;
	__u32 others;

	ctx->log_verdict = 1;
	ctx->verdict = check_flow(skb, pkt, ctx);
	barrier();
	others = other_nics(flow);
	if (!is_for_good(pkt, flow))
		return;
	flow->verdict = ct_verdict(pkt->verdict.epoch, !ctx->verdict) |
			(flow->verdict & (others << 16 | others));
	ct_keep_rule(flow, config.nic_slot, pkt->verdict.rule, others);
}

/*
 * What another NIC that enforces denies is no answer here any more. On its originator's way the flow is that NIC's to
 * drop, where it comes there, and nothing of this is kept.
 */
static __always_inline void apply_other_nics(struct packet *pkt, struct policy_ctx *ctx)
{
	enum cm_direction direction = packet_direction(pkt);

	ctx->create_ct = 0;
	if (ctx->flow.direction == direction || (ctx->verdict && ctx->is_enforced))
		return;
	ctx->log_verdict = 1;
	ctx->verdict = others_verdict(ctx);
	pkt->verdict.rule = CM_RULE_ANOTHER_NIC;
	ctx->is_enforced |= is_enforced(ctx, direction);
	if (is_failsafe_answer(pkt)) {
		ctx->verdict = 0;
		pkt->verdict.rule = CM_RULE_FAILSAFE;
	}
}

/* About a flow that is new, or known and to be decided about again, or denied. */
static __always_inline void flow_verdict(struct __sk_buff *skb, struct packet *pkt,
					 struct policy_ctx *ctx)
{
	struct cm_flow *flow = &ctx->flow;
	int is_stale = ct_epoch(flow->verdict) != pkt->verdict.epoch;
	int is_answer = flow->direction != packet_direction(pkt);

	pkt->verdict.rule = ct_rule(flow);
	if (ctx->ct == CT_FRESH) {
		ctx->create_ct = 1;
		return;
	}
	if (ctx->ct != CT_KNOWN && is_failsafe_answer(pkt)) {
		pkt->verdict.rule = CM_RULE_FAILSAFE;
		return;
	}
	if (is_stale && asks_others(ctx))
		return;
	if (has_passed_here(flow) && !is_stale && pkt->verdict.rule != CM_RULE_ANOTHER_NIC) {
		ctx->verdict = pkt->verdict.rule ? -CM_DROP_POLICY_DENY : -CM_DROP_POLICY;
	} else if (has_passed_here(flow) || !is_answer) {
		ask_about_flow(skb, pkt, ctx);
	} else if (is_for_good(pkt, flow)) {
		/* An answer of a flow that other NICs alone know. */
		flow->verdict = ct_verdict_of(pkt->verdict.epoch, ct_passed(flow->verdict),
					      ct_denied(flow->verdict));
	}
	barrier();
	/* Else the entry would say that the host, too, may have the next one. */
	ctx->create_ct =
		!pkt->verdict.is_hidden && (!ctx->verdict || !ctx->is_enforced) &&
		(ctx->ct == CT_KNOWN ||
		 !(begins_nothing(pkt) || (ctx->verdict && (is_midstream(pkt) || ctx->is_in_use))));
	/* Answers by themselves begin nothing: what they leave would outlive the request. */
	if (ctx->ct != CT_KNOWN &&
	    (pkt->verdict.rule == CM_RULE_RELATED ||
	     (config.role == CM_ROLE_CONTAINER && pkt->verdict.rule == CM_RULE_DHCP &&
	      packet_direction(pkt) == CM_INGRESS)))
		ctx->create_ct = 0;
	if (others_verdict(ctx))
		apply_other_nics(pkt, ctx);
}

/* What bypasses_host_policy() has said. The role is a constant, so that a workload's programs have nothing of it. */
static __always_inline int is_bypassed(const struct policy_ctx *ctx)
{
	return config.role == CM_ROLE_NETDEV && ctx->bypasses;
}

/*
 * Whether a NIC's policy would deny what is not this host's any more. To find that out costs as much as the
 * verdict itself, and so only what would be dropped is asked about.
 */
static __always_inline int is_no_longer_for_host(struct __sk_buff *skb, const struct packet *pkt,
						 struct policy_ctx *ctx)
{
	if (config.role != CM_ROLE_NETDEV || packet_program(pkt) != CM_FROM_NETDEV ||
	    !ctx->verdict || ctx->verdict == -CM_DROP_INVALID_SOURCE || !packet_is_ip(pkt))
		return 0;
	step_begin(); /* CM_CALL_KEEP_MASQUERADED */
	if (!has_moved_away(skb, pkt)) {
		step_cancel();
		return 0;
	}
	ctx->verdict = 0;
	ctx->create_ct = 0;
	return 1;
}

/*
 * A later fragment whose first one was dropped goes the same way, also where its flow or a rule has come
 * since: nobody can put it together.
 */
static __always_inline void refuse_orphan(struct packet *pkt, struct policy_ctx *ctx)
{
	if (!ctx->verdict) {
		ctx->verdict = -CM_DROP_FRAGMENT_NOT_FOUND;
		pkt->verdict.rule = CM_RULE_NONE;
	}
	ctx->log_verdict = 1;
	ctx->create_ct = 0;
	ctx->is_enforced |= is_enforced(ctx, packet_direction(pkt));
}

/*
 * Everything but the next packet of a settled flow: 0, or the negative reason to drop it. Where other NICs are to be
 * asked first it says so, and has done nothing else.
 */
__noinline int slow_path(struct __sk_buff *skb, struct packet *pkt, struct policy_ctx *ctx)
{
	/* Without a policy there are no maps for it either. */
	if (!pkt || !ctx || !has_policy())
		return -CM_DROP_INVALID_PACKET;
	if (!others_were_asked(ctx)) {
		step_policy(ctx);
		if (pkt->fragment == FRAGMENT_LATER)
			ctx->verdict = fragment_find_ports(pkt, ctx);
		barrier();
		if (has_flow(pkt) && !ctx->verdict)
			lookup_flow(skb, pkt, ctx);
	} else if (has_flow(pkt) && !ct_passed(ctx->flow.verdict)) {
		/* None of the NICs that it had passed is left. */
		begin_flow(pkt, ctx);
	}
	barrier();
	/* What belongs to no flow may have found the one that it is about. */
	ctx->is_enforced =
		is_enforced(ctx, has_flow(pkt) ? ctx->flow.direction : packet_direction(pkt));
	barrier();
	if (config.role == CM_ROLE_NETDEV &&
	    (ctx->ct == CT_MISS || ctx->ct == CT_REPLACED || ctx->is_orphan)) {
		ctx->bypasses = bypasses_host_policy(skb, pkt, ctx);
		if (!ctx->bypasses)
			step_cancel();
	}
	barrier();
	if ((!ctx->verdict || others_were_asked(ctx)) && !is_bypassed(ctx)) {
		if (has_flow(pkt))
			flow_verdict(skb, pkt, ctx);
		else
			ctx->verdict = check_flowless(skb, pkt, ctx);
	}
	barrier();
	if (config.role == CM_ROLE_NETDEV && ctx->other_nics == OTHER_NICS_ASK)
		return 0;
	if (ctx->is_orphan && !is_bypassed(ctx))
		refuse_orphan(pkt, ctx);
	barrier();
	if (is_no_longer_for_host(skb, pkt, ctx))
		ctx->bypasses = 1;
	barrier();
	if (config.explain && ctx->create_ct && ctx->ct != CT_FRESH)
		write_step(CM_CALL_CT_CREATE, NULL, ctx->ct == CT_MISS, 0, 0);
	if (is_bypassed(ctx))
		step_end(CM_CALL_KEEP_MASQUERADED, NULL, 0, 0, 0);
	else
		ctx->verdict = finish_verdict(skb, pkt, ctx);
	barrier();
	if (is_bypassed(ctx))
		return 0;
	if (pkt->fragment == FRAGMENT_FIRST && !pkt->parse_error)
		fragment_keep_ports(pkt, ctx->verdict == 0);
	return ctx->verdict;
}

/* Whether a packet is one that its flow's entry settles, and counted. */
static __always_inline int is_settled(struct __sk_buff *skb, struct packet *pkt,
				      enum cm_direction direction, const union flow_key *key,
				      struct policy_ctx *ctx)
{
	const struct cm_flow *flow = &ctx->flow;
	__u32 now, left;

	now = flow_now();
	if ((__s32)(ctx->expires - now) <= 0 ||
	    !ct_is_settled(flow, pkt->verdict.epoch, (direction ^ flow->direction) & 1) ||
	    claims_another(skb, pkt, flow) ||
	    (config.role == CM_ROLE_NETDEV && direction == CM_EGRESS &&
	     is_taken_back(skb, pkt, flow)))
		return 0;
	pkt->verdict.rule = ct_rule(flow);
	pkt->verdict.is_settled = 1;
	/* The slow path says the same, and tells how it comes to it. */
	if (config.explain)
		return 0;
	/* At most once a second, for the sake of the other CPUs' caches. */
	left = is_tcp(pkt) && !(config.role == CM_ROLE_NETDEV && flow->masqueraded) ?
		       ct_ticks(CM_CT_LIFETIME_ESTABLISHED) :
		       ct_lifetime(flow, pkt->l4_protocol, now);
	if ((__s32)(now + left - ctx->expires - ct_ticks(1)) >= 0 &&
	    ct_pushes_end_back(flow, direction)) {
		/* For another while it may be answered: the slow path says so. */
		if (flow->state & CM_CT_ASKS)
			return 0;
		ctx->expires = now + left;
		ct_visit(key, pkt->source.family == CM_IPV6, &ctx->where,
			 FLOW_PUSH + (ctx->place - CT_IN_FIRST) * FLOW_IN_SECOND, ctx);
	}
	count_rule(skb, pkt->verdict.rule);
	return 1;
}

/*
 * Whether a packet's flow settles it. What is found out stands in the context, so that the slow path need not look again
 * (CT_NOT_READ: it does).
 */
static __always_inline int is_settled_quickly(struct __sk_buff *skb, struct packet *pkt,
					      enum cm_direction direction, union flow_key *key,
					      struct policy_ctx *ctx)
{
	struct tuple tuple = tuple_of(pkt, direction);
	enum flow_read read = ct_find_quickly(&tuple, key, ctx);

	if (read == FLOW_READ)
		return is_plain(pkt) && is_settled(skb, pkt, direction, key, ctx);
	ctx->flow = (struct cm_flow){};
	ctx->expires = 0;
	ctx->place = read == FLOW_TORN ? CT_NOT_READ : CT_NOWHERE;
	return config.role == CM_ROLE_NETDEV && read == FLOW_MISSING && is_plain(pkt) &&
	       is_known_forwarded(skb, pkt);
}

/* All of the context but what the flow's lookup has left there. */
static __always_inline void policy_begins(struct policy_ctx *ctx)
{
	ctx->own = 0;
	ctx->any = 0;
	ctx->verdict = 0;
	ctx->ct = CT_MISS;
	ctx->is_enforced = 0;
	ctx->log_verdict = 0;
	ctx->create_ct = 0;
	ctx->bypasses = 0;
	ctx->is_to_host = 0;
	ctx->tells_host = 0;
	ctx->class = 0;
	ctx->displaced = 0;
	ctx->is_orphan = 0;
	ctx->is_in_use = 0;
	ctx->nic = config.nic_slot;
	ctx->other_nics = OTHER_NICS_HAVE_NO_SAY;
	ctx->fallback = fallback();
}

static __always_inline int verdict_slowly(struct __sk_buff *skb, struct packet *pkt,
					  enum cm_direction direction, union flow_key *key,
					  struct policy_ctx *ctx)
{
	int verdict;

	policy_begins(ctx);
	verdict = slow_path(skb, pkt, ctx);
	barrier();
	if (config.role == CM_ROLE_NETDEV && ctx->other_nics == OTHER_NICS_ASK) {
		ask_other_nics(has_flow(pkt) ? pkt : quoted_packet(), ctx);
		verdict = slow_path(skb, pkt, ctx);
		barrier();
	}
	/* From here, for its stack. What is hidden from this host may be answered by others. */
	if (!config.explain && (ctx->create_ct || pkt->verdict.is_hidden)) {
		/* Its ports were not known before. */
		if (pkt->fragment == FRAGMENT_LATER)
			packet_key(pkt, key, direction);
		write_flow(skb, pkt, key, ctx);
	}
	return verdict;
}

/*
 * 0, or the negative reason for which the packet is to be dropped. `direction` is the packet's, as
 * a constant.
 */
static __always_inline int policy_verdict(struct __sk_buff *skb, struct packet *pkt,
					  enum cm_direction direction)
{
	struct policy_ctx ctx;
	union flow_key key;

	if (!has_policy() ||
	    !(packet_is_ip(pkt) || (policy_mode(direction) != CM_POLICY_OFF && is_unread(pkt))))
		return 0;
	/* Before the rules are asked: if they change meanwhile, what they say is stale at once. */
	pkt->verdict.epoch = policy_epoch(&pkt->source + (direction == CM_EGRESS));
	/* Read back from memory, it is one state to the verifier instead of six. */
	barrier();
	if (shows_flow(pkt)) {
		if (is_settled_quickly(skb, pkt, direction, &key, &ctx))
			return 0;
	} else {
		key = (union flow_key){};
		ctx = (struct policy_ctx){ .flow.direction = direction, .place = CT_NOT_READ };
	}
	return verdict_slowly(skb, pkt, direction, &key, &ctx);
}

#endif
