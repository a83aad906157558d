/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Who is at the other end: from the mark, the flow label and the ipcache, by the path it came. */
#ifndef CILMARK_RESOLVE_H
#define CILMARK_RESOLVE_H

#include "abi.h"
#include "config.h"
#include "endpoint.h"
#include "explain.h"
#include "flow_label.h"
#include "identity.h"
#include "ipcache.h"
#include "mark.h"
#include "packet.h"

/*
 * ingress_ifindex is 0 for what this host sends, and not for what it forwards or bridges. Unlike
 * the mark no process can choose it.
 */
static __always_inline int is_generated_here(const struct __sk_buff *skb)
{
	return skb->ingress_ifindex == 0;
}

/* Sent by this host's stack, or marked so by a program of this host. */
static __always_inline int is_from_stack(const struct __sk_buff *skb, const struct packet *pkt)
{
	return is_generated_here(skb) || mark_magic(pkt->mark_in) == MARK_MAGIC_HOST;
}

/*
 * What the ipcache says of a sender that is not this host, else `otherwise`. Only this host is the
 * host: where another sends from its address, that is spoofed or masqueraded.
 */
static __always_inline __u32 ipcache_sender(const struct cm_address *source, __u32 otherwise)
{
	struct known known = ipcache_known(source);
	int is_host = known.is_host || known.identity == IDENTITY_HOST;

	return known.from == CM_IPCACHE_NOWHERE || is_host ? otherwise : known.identity;
}

/*
 * What a packet itself says of its sender, where that is to be believed; else 0. The world, for a
 * workload's packet that came without an identity.
 */
static __always_inline __u32 claimed_identity(struct __sk_buff *skb, const struct packet *pkt)
{
	__u32 mark = pkt->mark_in;

	if (packet_program(pkt) == CM_FROM_NETDEV)
		return flow_label_identity(skb, pkt);
	if (is_from_stack(skb, pkt))
		return IDENTITY_HOST;
	if (mark_magic(mark) == MARK_MAGIC_IDENTITY || (config.trust_proxy && mark_is_proxy(mark)))
		return mark_identity(mark);
	return IDENTITY_WORLD;
}

/* Who an endpoint's packet comes from: its sender's claim, with what the ipcache knows. */
static __always_inline __u32 source_identity(const struct cm_address *source, __u32 claimed)
{
	__u32 identity = claimed;

	if (config.role == CM_ROLE_NETDEV)
		identity = claimed ? claimed : ipcache_identity(source);
	else if (identity_is_reserved(claimed) && claimed != IDENTITY_HOST)
		identity = ipcache_sender(source, claimed);
	step(CM_CALL_RESOLVE_SRCID, source, claimed, identity, 0);
	return identity;
}

/* The same for a mark, which others believe: nobody on a wire is this host. */
static __always_inline __u32 remote_identity_to_stamp(struct __sk_buff *skb,
						      const struct packet *pkt)
{
	__u32 identity = flow_label_identity(skb, pkt);

	return identity ? identity : ipcache_sender(&pkt->source, IDENTITY_WORLD);
}

static __always_inline int is_sent_by_host(const struct __sk_buff *skb, const struct packet *pkt)
{
	if (!is_from_stack(skb, pkt))
		return 0;
	/* Conntrack has no flow of a local workload that is generated here. */
	if (pkt->is_settled)
		return 1;
	if (config.trust_proxy && mark_is_proxy(pkt->mark_in))
		return 0;
	return !is_local_workload(&pkt->source);
}

/* Sent by this host itself: not by a workload, nor by a proxy in a workload's name. */
static __always_inline int is_host_traffic(const struct __sk_buff *skb, const struct packet *pkt)
{
	int answer = is_sent_by_host(skb, pkt);

	step(CM_CALL_IS_HOST_TRAFFIC, &pkt->source, answer, 0, 0);
	return answer;
}

/* The sender of a packet that leaves by a NIC. */
static __always_inline __u32 outgoing_source_identity(const struct __sk_buff *skb,
						      const struct packet *pkt)
{
	if (is_host_traffic(skb, pkt))
		return config.identity;
	if (mark_magic(pkt->mark_in) == MARK_MAGIC_IDENTITY ||
	    (config.trust_proxy && mark_is_proxy(pkt->mark_in)))
		return mark_identity(pkt->mark_in);
	return ipcache_identity(&pkt->source);
}

#endif
