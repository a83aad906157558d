/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * The verdict on a flow, or on a packet that belongs to none: by the rules, and by the exceptions to them. A verdict is 0
 * or a negative reason; pkt->verdict.rule names the rule or exception that gave it.
 */
#ifndef CILMARK_POLICY_H
#define CILMARK_POLICY_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/explain.h"
#include "abi/maps.h"
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
#include "policy_ctx.h"
#include "ipcache.h"
#include "packet.h"
#include "policy_map.h"
#include "question.h"
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
 * for another's, too; if the rules could tell the host from others, check_flow() looks up the route, sets is_to_host
 * and asks again.
 */
static __always_inline __u32 destination_identity(const struct cm_address *remote,
						  struct policy_ctx *ctx)
{
	__u64 known = ipcache_lookup(remote);

	if (known_is_host(known) && is_attached_here(remote)) {
		if (ctx->is_to_host)
			return known;
		ctx->tells_host = 1;
		known = ipcache_lookup_prefix(remote);
	}
	if (known_is_workloads_prefix(known))
		ctx->tells_host = 1;
	return ctx->is_to_host ? IDENTITY_HOST : known;
}

/* Asks the rules about the flow, of this direction, that a packet belongs to: 0, or a negative reason. */
__noinline int policy_check(struct packet *pkt, struct policy_ctx *ctx, enum cm_direction direction)
{
	const struct cm_address *remote;
	int forward, verdict;
	__be16 port;
	__u32 peer;

	if (!pkt || !ctx || nic_mode(ctx->nic, direction) == CM_POLICY_OFF)
		return 0;
	step(CM_CALL_POLICY_CHECK, NULL, direction, is_own_nic(ctx->nic) ? 0 : ctx->nic + 1, 0);
	forward = packet_direction(pkt) == direction;
	remote = packet_remote(pkt);
	peer = direction == CM_EGRESS ? destination_identity(remote, ctx) :
					source_identity(remote, ctx->flow.claimed_identity);
	if (packet_direction(pkt) == CM_EGRESS)
		pkt->verdict.destination_identity = peer;
	else
		pkt->verdict.source_identity = peer;
	/* Read back from memory here and below, all that may have come of it is one state to the verifier. */
	ctx->own = service_of(pkt, forward);
	barrier();
	peer = packet_direction(pkt) == CM_EGRESS ? pkt->verdict.destination_identity :
						    pkt->verdict.source_identity;
	port = ctx->own;
	if (refuses_host() && forward && direction == CM_INGRESS && peer == IDENTITY_HOST &&
	    is_own_nic(ctx->nic))
		return -CM_DROP_INVALID_SOURCE; /* check_flow() checks whether it really is the host's address */
	verdict = ask_policy(pkt, ctx, direction, peer, port);
	step(CM_CALL_POLICY_LOOKUP, NULL,
	     direction << 24 | pkt->l4_protocol << 16 | bpf_ntohs(port), peer, -verdict);
	return verdict;
}

/*
 * The verdict on a flow that is older than its policy: allowed if the rules of its direction allow it, or if none
 * denies it. If it is not known which end began, the rules of either direction may allow it.
 */
static __always_inline int check_picked_up(struct packet *pkt, struct policy_ctx *ctx)
{
	int is_known = ctx->flow.picked_up == CM_CT_PICKED_UP_KNOWN;
	enum cm_direction first = is_known ? ctx->flow.direction & 1 : CM_INGRESS;
	int received = policy_check(pkt, ctx, first);
	__u32 rule = pkt->verdict.rule;
	int sent = received && !is_known ? policy_check(pkt, ctx, CM_EGRESS) : received;

	if (!received || !sent || sent == -CM_DROP_POLICY_DENY)
		return sent;
	if (received != -CM_DROP_POLICY_DENY) {
		pkt->verdict.rule = CM_RULE_PICKED_UP;
		return 0;
	}
	pkt->verdict.rule = rule;
	return received;
}

/* Whether a flow without an entry is a TCP connection of this host that is older than its policy. */
static __always_inline int may_be_picked_up(struct __sk_buff *skb, const struct packet *pkt)
{
	return config.role == CM_ROLE_NETDEV && config.adopt_until_ns &&
	       pkt->l4_protocol == IPPROTO_TCP && !pkt->fragment && !(pkt->tcp_flags & TCP_SYN) &&
	       bpf_ktime_get_coarse_ns() < config.adopt_until_ns &&
	       find_socket(skb, pkt) == SOCKET_CONNECTED;
}

/* Whether the policy that is asked has picked up this flow mid-stream: of a flow that NICs share another NIC may have. */
static __always_inline int has_picked_up(const struct policy_ctx *ctx)
{
	return config.role != CM_ROLE_NETDEV || config.adopt_until_ns ||
	       ct_passed(ctx->flow.verdict) >> ctx->nic % CM_NICS & 1;
}

/*
 * Whether the NIC that is asked has taken a flow over that another NIC has seen begin. Its rule alone says so: to that
 * other one the flow is no older than its policy.
 */
static __always_inline int has_joined(const struct policy_ctx *ctx)
{
	const struct cm_flow *flow = &ctx->flow;
	__u32 slot = ctx->nic % CM_NICS;

	return config.role == CM_ROLE_NETDEV && ct_passed(flow->verdict) >> slot & 1 &&
	       ct_rule_of(flow, slot) == CM_RULE_PICKED_UP;
}

/* About a known flow that no failsafe port is about: 0, or a negative reason. */
static __always_inline int check_rules(struct packet *pkt, struct policy_ctx *ctx)
{
	int verdict;

	if (!ctx->flow.picked_up && has_joined(ctx)) {
		verdict = policy_check(pkt, ctx, ctx->flow.direction);
		if (verdict != -CM_DROP_POLICY_DENY) {
			pkt->verdict.rule = CM_RULE_PICKED_UP;
			verdict = 0;
		}
		return verdict;
	}
	if (ctx->flow.picked_up && has_picked_up(ctx))
		return check_picked_up(pkt, ctx);
	return policy_check(pkt, ctx, ctx->flow.direction);
}

/* The verdict on a flow whose direction is known, by a packet of either direction. A global function for the verifier. */
__noinline int check_again(struct packet *pkt, struct policy_ctx *ctx)
{
	struct cm_flow *flow;
	int forward;

	if (!pkt || !ctx || !has_policy())
		return -CM_DROP_INVALID_PACKET;
	flow = &ctx->flow;
	forward = flow->direction == packet_direction(pkt);
	if (flow->masqueraded) {
		pkt->verdict.rule = CM_RULE_MASQUERADED;
		return 0;
	}
	if (is_failsafe(flow->direction, pkt->l4_protocol, service_of(pkt, forward))) {
		if (refuses_host() && forward && flow->direction == CM_INGRESS &&
		    !flow->claimed_identity && is_listed_host(&pkt->source))
			return -CM_DROP_INVALID_SOURCE;
		pkt->verdict.rule = CM_RULE_FAILSAFE;
		return 0;
	}
	return check_rules(pkt, ctx);
}

/* Which other NICs a flow of the host has passed. */
static __always_inline __u32 other_nics(const struct cm_flow *flow)
{
	return config.role == CM_ROLE_NETDEV ? ct_passed(flow->verdict) & ~own_slot() : 0;
}

/* Whether a flow has passed another NIC first, which names the rule, and knows who has begun it. */
static __always_inline int is_first_elsewhere(const struct cm_flow *flow)
{
	return other_nics(flow) >> (flow->rule >> CM_FLOW_NIC_SHIFT) & 1;
}

static __always_inline int has_passed_here(const struct cm_flow *flow)
{
	return config.role != CM_ROLE_NETDEV || ct_passed(flow->verdict) & own_slot();
}

static __always_inline int others_were_asked(const struct policy_ctx *ctx)
{
	return config.role == CM_ROLE_NETDEV && ctx->other_nics >= OTHER_NICS_ASKED;
}

/* 0, or the negative reason for which another NIC denies a flow that enforces. */
static __always_inline int others_verdict(const struct policy_ctx *ctx)
{
	return config.role == CM_ROLE_NETDEV && ctx->other_nics > OTHER_NICS_ASKED ?
		       -ctx->other_nics :
		       0;
}

/* Whether other NICs are to be asked first about a flow whose entry is stale. */
static __always_inline int asks_others(struct policy_ctx *ctx)
{
	if (others_were_asked(ctx) || !other_nics(&ctx->flow) || ctx->flow.masqueraded)
		return 0;
	ctx->other_nics = OTHER_NICS_ASK;
	return 1;
}

/*
 * Asks another NIC, if a flow has passed it, by whatever of its packets. What it says goes into the flow's verdict; but that
 * it denies it, and enforces, into ctx->other_nics. Where that NIC has only audited the flow, enforcement would have
 * left nothing of it.
 */
__noinline int ask_nic(struct packet *pkt, struct policy_ctx *ctx, __u32 slot)
{
	__u64 denies = 1ULL << slot % CM_NICS;
	struct cm_flow *flow;
	int verdict;

	if (!pkt || !ctx || config.role != CM_ROLE_NETDEV || !has_policy())
		return 0;
	flow = &ctx->flow;
	if (!(other_nics(flow) >> slot & 1))
		return 0;
	ctx->nic = slot;
	ctx->fallback = nic_fallback(slot);
	if (nic_is_failsafe(slot, flow->direction, pkt->l4_protocol,
			    service_of(pkt, flow->direction == packet_direction(pkt)))) {
		pkt->verdict.rule = CM_RULE_FAILSAFE;
		verdict = 0;
	} else {
		verdict = check_rules(pkt, ctx);
	}
	barrier();
	if (!verdict)
		flow->verdict &= ~denies;
	else if (!nic_enforces(ctx, flow->direction))
		flow->verdict |= denies;
	else if (flow->verdict & denies)
		flow->verdict &= ~(denies << 16 | denies);
	else
		ctx->other_nics = -verdict;
	ct_keep_rule(flow, slot, pkt->verdict.rule,
		     ct_passed(flow->verdict) & ~(1U << slot % CM_NICS));
	return 0;
}

/*
 * Asks all of them but those that are gone, with their rules. `pkt` is the packet, or the answer to one that it quotes. A
 * global function, for its stack.
 */
__noinline int ask_other_nics(struct packet *pkt, struct policy_ctx *ctx)
{
	const volatile struct cm_nics *all;

	if (!pkt || !ctx || config.role != CM_ROLE_NETDEV)
		return 0;
	all = all_nics();
	ctx->flow.verdict = ct_within(ctx->flow.verdict, all ? all->taken : 0);
	ctx->other_nics = OTHER_NICS_ASKED;
	/* None is left out here: the verifier would walk on with each twice. */
#pragma clang loop unroll(disable)
	for (__u32 slot = 0; slot < CM_NICS; slot++)
		ask_nic(pkt, ctx, slot);
	ctx->nic = config.nic_slot;
	ctx->fallback = fallback();
	return 0;
}

/*
 * The verdict on a workload's packet that is allowed to others and denied to this host. If its frame is broadcast or
 * multicast, the others still get it, and the host's own stack does not (is_hidden).
 */
static __always_inline int check_for_many(struct __sk_buff *skb, struct packet *pkt,
					  const struct policy_ctx *ctx, int others, int host)
{
	if (others || !host || !is_for_many(skb) || !ctx->is_enforced)
		return host;
	pkt->verdict.is_hidden = 1;
	return 0;
}

/*
 * Whether the verdict could change if a workload's flow goes to this host. A route lookup may cost as much as all the rest
 * (docs/performance.md), so it is done only if a rule of that direction names host or world.
 */
static __always_inline int may_be_for_host(const struct policy_ctx *ctx)
{
	return config.role == CM_ROLE_CONTAINER && ctx->flow.direction == CM_EGRESS &&
	       (ctx->tells_host || (ctx->own | ctx->any) & CM_POLICY_TELLS_HOST);
}

/*
 * Looks up whether a workload's flow goes to this host; if so, it is to be decided about once more. If the lookup can't
 * tell, it must be allowed both as the host's and as another's: the next packet of the flow may go to a neighbour's MAC.
 */
static __always_inline int turns_out_to_be_for_host(struct __sk_buff *skb, const struct packet *pkt,
						    struct policy_ctx *ctx, int verdict)
{
	int remote = is_remote_host(skb, pkt);

	ctx->is_to_host = remote == REMOTE_HOST || (remote == REMOTE_UNTOLD && !verdict);
	return ctx->is_to_host;
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
	RELATED_STALE, /* to a flow whose entry, now in the ctx, is of another epoch */
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
	if (!answer || icmp_parse_quoted(skb, pkt, answer) < 0 || answer->is_flowless ||
	    !words_equal(address_words(&answer->destination), address_words(&pkt->destination)))
		return 0;
	/* What is sent about a flow goes to its other end; what is received need not come from there. */
	answer->verdict.epoch = packet_direction(pkt) == CM_EGRESS ?
					pkt->verdict.epoch :
					epoch_with(pkt->verdict.epoch, &answer->source);
	return 1;
}

/* How an ICMP error relates to the flow of the packet that it quotes, which is in the context now. */
static __always_inline enum related related_to(const struct packet *answer,
					       const struct policy_ctx *ctx)
{
	if (!ctx->place || !ct_is_alive(ctx->expires))
		return RELATED_TO_NOTHING;
	if (ct_epoch(ctx->flow.verdict) != answer->verdict.epoch)
		return RELATED_STALE;
	/* An entry that audit made for a denied flow does not count, as in lookup_flow(). */
	return ct_denied(ctx->flow.verdict) & own_slot() ? RELATED_TO_NOTHING : RELATED_ALLOWED;
}

/* Whether an ICMP error is about a flow that is allowed. If the flow's entry is stale, the rules are asked again. */
static __always_inline int is_related(struct __sk_buff *skb, struct packet *pkt,
				      struct policy_ctx *ctx)
{
	struct packet *answer = quoted_packet();
	int related = RELATED_NOT;
	int verdict;

	if (others_were_asked(ctx)) {
		related = RELATED_STALE;
	} else if (quotes_flow(skb, pkt) && answer) {
		/* From here, for its stack. */
		find_flow(answer, ctx, packet_direction(pkt));
		barrier();
		related = related_to(answer, ctx);
	}
	barrier();
	if (related == RELATED_STALE && asks_others(ctx))
		return 0;
	barrier();
	if (related == RELATED_STALE && answer) {
		verdict = others_verdict(ctx);
		if (!verdict && has_passed_here(&ctx->flow))
			verdict = check_again(answer, ctx);
		if (!ct_passed(ctx->flow.verdict))
			verdict = -CM_DROP_POLICY;
		barrier();
		if (may_be_for_host(ctx) && turns_out_to_be_for_host(skb, answer, ctx, verdict))
			verdict = check_again(answer, ctx);
		related = !verdict				? RELATED_ALLOWED :
			  is_enforced(ctx, ctx->flow.direction) ? RELATED_NOT :
								  RELATED_TO_NOTHING;
	}
	barrier();
	if (related == RELATED_TO_NOTHING && config.role == CM_ROLE_NETDEV && answer)
		related = is_about_host(skb, answer) ? RELATED_ALLOWED : RELATED_NOT;
	barrier();
	ctx->flow.direction = packet_direction(pkt);
	ctx->is_to_host = 0;
	return related == RELATED_ALLOWED;
}

/* The verdict on a packet that belongs to no flow: most of ICMP, IGMP, and what could not be parsed. */
static __always_inline int check_flowless(struct __sk_buff *skb, struct packet *pkt,
					  struct policy_ctx *ctx)
{
	int verdict = ctx->verdict, is_asked = 0;

	if (!others_were_asked(ctx)) {
		ctx->log_verdict = 1;
		if (pkt->parse_error)
			return pkt->parse_error;
		/* The rules are asked even if an exception below decides: the report names the identity at the other end. */
		ctx->flow.claimed_identity = claimed_identity(skb, pkt);
		verdict = policy_check(pkt, ctx, packet_direction(pkt));
		is_asked = may_be_for_host(ctx);
		if (icmp_keeps_link_up(skb, pkt)) {
			pkt->verdict.rule = CM_RULE_ICMP;
			return 0;
		}
		if (igmp_keeps_link_up(skb, pkt)) {
			pkt->verdict.rule = CM_RULE_IGMP;
			return 0;
		}
		if (icmp_is_forbidden(pkt)) {
			pkt->verdict.rule = CM_RULE_NONE;
			return -CM_DROP_FORBIDDEN_ICMP6;
		}
	}
	if (icmp_is_error(pkt) && is_related(skb, pkt, ctx)) {
		pkt->verdict.rule = CM_RULE_RELATED;
		return 0;
	}
	barrier();
	if (is_asked && turns_out_to_be_for_host(skb, pkt, ctx, verdict))
		verdict = check_for_many(skb, pkt, ctx, verdict,
					 policy_check(pkt, ctx, packet_direction(pkt)));
	return verdict;
}

/* The verdict on a flow that is new, or whose entry is stale. */
static __always_inline int check_flow(struct __sk_buff *skb, struct packet *pkt,
				      struct policy_ctx *ctx)
{
	struct cm_flow *flow = &ctx->flow;
	int forward = flow->direction == packet_direction(pkt);
	int verdict;

	if (packet_direction(pkt) == CM_INGRESS && (forward || flow->picked_up) &&
	    !(is_first_elsewhere(flow) && flow->claimed_identity))
		flow->claimed_identity = claimed_identity(skb, pkt);
	if (!flow->verdict) {
		if (may_be_picked_up(skb, pkt))
			flow->picked_up = CM_CT_PICKED_UP_UNKNOWN;
	} else if (!has_passed_here(flow) && may_be_picked_up(skb, pkt)) {
		ct_join(flow, config.nic_slot);
	}
	/* Until the peer sends something that tells its identity. */
	if (config.role == CM_ROLE_CONTAINER && flow->picked_up && !flow->claimed_identity)
		flow->claimed_identity = IDENTITY_WORLD;
	verdict = check_again(pkt, ctx);
	barrier();
	/*
	 * DHCP passes whatever the rules said; they were asked so that the report names the identity at the other
	 * end. A reply of a flow that DHCP's exception has allowed passes, too.
	 */
	if (config.role == CM_ROLE_CONTAINER && has_dhcp_ports(pkt) &&
	    ((!forward && flow->rule == CM_RULE_DHCP) || keeps_lease(skb, pkt))) {
		pkt->verdict.rule = CM_RULE_DHCP;
		return 0;
	}
	if (config.role == CM_ROLE_NETDEV && verdict == -CM_DROP_INVALID_SOURCE &&
	    !has_listed_source(skb, pkt)) {
		flow->claimed_identity = (__u32)ipcache_lookup_prefix(&pkt->source);
		verdict = check_again(pkt, ctx);
	}
	barrier();
	if (may_be_for_host(ctx) && turns_out_to_be_for_host(skb, pkt, ctx, verdict))
		verdict = check_for_many(skb, pkt, ctx, verdict, check_again(pkt, ctx));
	barrier();
	if (verdict == -CM_DROP_POLICY && ctx->ct != CT_KNOWN && pkt->l4_protocol == IPPROTO_UDP &&
	    answers_question(pkt)) {
		pkt->verdict.rule = CM_RULE_RELATED;
		return 0;
	}
	return verdict;
}

#endif
