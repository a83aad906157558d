/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Questions to many, by multicast or broadcast UDP: SSDP, WS-Discovery, NetBIOS, mDNS. Answers come from addresses that
 * were not asked, or to one that was not asked from, and so belong to no flow. A question that the policy allows therefore
 * leaves a second entry in conntrack, for CM_CT_LIFETIME_ASKED seconds: the flow of the question without the end that it
 * was sent to. An answer passes that finds it: UDP between the same two ports, and at one end the one who has asked.
 */
#ifndef CILMARK_QUESTION_H
#define CILMARK_QUESTION_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/maps.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "config.h"
#include "conntrack.h"
#include "endpoint.h"
#include "flow_table.h"
#include "generations.h"
#include "host.h"
#include "packet.h"
#include "policy_ctx.h"
#include "policy_map.h"

/* Whether a packet is for many. The broadcast address of a network looks like any other, but not its frame. */
static __always_inline int is_for_a_group(struct __sk_buff *skb, const struct packet *pkt)
{
	__u8 *end = (void *)(long)skb->data_end;
	__u8 *mac = (void *)(long)skb->data;

	if (is_multicast(&pkt->destination))
		return 1;
	if (config.l3_device || pkt->source.family != CM_IPV4 || mac + ETH_ALEN > end)
		return 0;
	return mac[0] & 1;
}

/*
 * Whether a packet is a question, and allowed. Port 0 wants no answer (RFC 768); a workload's question for a lease has an
 * entry of its own kind, see dhcp.h.
 */
static __always_inline int is_question(struct __sk_buff *skb, const struct packet *pkt,
				       const struct policy_ctx *ctx)
{
	const struct cm_flow *flow = &ctx->flow;

	return pkt->l4_protocol == IPPROTO_UDP && pkt->sport &&
	       flow->direction == packet_direction(pkt) && !flow->masqueraded &&
	       !pkt->verdict.audited && pkt->verdict.rule != CM_RULE_DHCP &&
	       is_for_a_group(skb, pkt);
}

/*
 * Makes of a flow's key that of its second entry, without the remote end or the local one. No packet has such a key: what comes
 * from nobody's address would be taken for an answer, and keep it alive.
 */
static __always_inline void key_forget(union flow_key *key, int is_v6, int is_remote)
{
	const __u64 protocol = (__u64)CM_FLOW_QUESTION << 56;

	if (!is_v6) {
		key->words[0] &= is_remote ? 0xffffffff : 0xffffffffULL << 32;
		key->words[1] |= protocol;
		return;
	}
	if (is_remote) {
		key->words[2] = 0;
		key->words[3] = 0;
	} else {
		key->words[0] = 0;
		key->words[1] = 0;
	}
	key->words[4] |= protocol;
}

/*
 * The epoch of a question's second entry: of the end that it has kept, or of nobody, whose counter is that of the unspecified
 * addresses. `pkt` is the question, or an answer. Nothing may have changed since its own epoch was read, which was before the
 * rules were asked. A global function, for the stack of its callers.
 */
__noinline __u32 question_epoch(const struct packet *pkt, int is_remote)
{
	struct cm_address nobody = {};
	__u32 epoch;

	if (!pkt)
		return NO_EPOCH;
	epoch = pkt->verdict.epoch;
	if (is_remote)
		epoch = epoch_with(epoch, &nobody);
	barrier();
	return epoch_with(pkt->verdict.epoch, packet_remote(pkt)) == pkt->verdict.epoch ? epoch :
											  NO_EPOCH;
}

/*
 * Makes of a flow and its key the second entry of a question that is one of its packets. IPv4: if it was no group, answers
 * have to come from its network (see is_of_network()).
 */
static __always_inline void question_begins(const struct packet *pkt, union flow_key *key,
					    struct policy_ctx *ctx)
{
	int is_remote = packet_direction(pkt) == CM_EGRESS;
	int is_v6 = pkt->source.family == CM_IPV6;
	struct cm_flow *flow = &ctx->flow;

	key_forget(key, is_v6, is_remote);
	flow->verdict = ct_verdict_of(question_epoch(pkt, is_remote), ct_passed(flow->verdict),
				      ct_denied(flow->verdict));
	if (is_remote && !is_multicast(&pkt->destination))
		flow->claimed_identity = address_words(&pkt->destination)[0];
	ctx->expires = flow_now() + ct_ticks(CM_CT_LIFETIME_ASKED);
	ct_locate(key, is_v6, &ctx->where);
	ctx->place = CT_NOWHERE;
	if (ct_visit(key, is_v6, &ctx->where, FLOW_LOOK, NULL))
		ctx->place = CT_IN_FIRST;
	else if (ct_visit(key, is_v6, &ctx->where, FLOW_LOOK | FLOW_IN_SECOND, NULL))
		ctx->place = CT_IN_SECOND;
	ctx->ct = ctx->place ? CT_KNOWN : CT_MISS;
}

/*
 * Whether an address is of the network that another one is the broadcast address of. Nobody has said how long the prefix is,
 * but behind it that has ones only. So a workload that sends to one address in a frame to all can't let others answer.
 */
static __always_inline int is_of_network(__be32 address, __be32 broadcast)
{
	__u32 last = bpf_ntohl(broadcast);
	__u32 host = last & ~(last + 1);

	return (bpf_ntohl(address) | host) == last;
}

/* Whether a packet without a flow answers a question to many. A global function, for its stack. */
__noinline int answers_question(const struct packet *pkt)
{
	struct policy_ctx asked = {};
	union flow_key key = {};
	const struct cm_flow *flow = &asked.flow;
	int is_remote, is_v6;
	__u64 verdict;

	if (!pkt || !has_policy())
		return 0;
	is_remote = packet_direction(pkt) == CM_INGRESS;
	is_v6 = packet_key(pkt, &key, packet_direction(pkt));
	key_forget(&key, is_v6, is_remote);
	if (!ct_take(&key, is_v6, &asked) || !ct_is_alive(asked.expires))
		return 0;
	/* What other NICs only audit is theirs, as in is_current(). */
	verdict = ct_within(flow->verdict, config.role == CM_ROLE_NETDEV ? own_slot() : ~0U);
	if (!ct_is_allowed(verdict, question_epoch(pkt, is_remote), 1))
		return 0;
	return !is_remote || !flow->claimed_identity ||
	       is_of_network(address_words(&pkt->source)[0], flow->claimed_identity);
}

#endif
