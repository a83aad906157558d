/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Who is at the other end: from the mark, the flow label and the ipcache, by the path it came. */
#ifndef CILMARK_RESOLVE_H
#define CILMARK_RESOLVE_H

#include "abi/config.h"
#include "abi/explain.h"
#include "abi/maps.h"
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
 * the mark no process can choose it. But it is 0 for fragments, too, that the host has put together for
 * its conntrack and parted again; these have no socket.
 */
static __always_inline int is_generated_here(const struct __sk_buff *skb, const struct packet *pkt)
{
	return skb->ingress_ifindex == 0 && (!pkt->fragment || skb->sk);
}

/* Sent by this host's stack, or marked so by a program of this host. */
static __always_inline int is_from_stack(const struct __sk_buff *skb, const struct packet *pkt)
{
	return is_generated_here(skb, pkt) || mark_magic(pkt->mark_in) == MARK_MAGIC_HOST;
}

/*
 * Whether an address alone does not tell who has sent from it: it is an attached workload's of this
 * namespace, whose packets come with its mark. Anybody else may have the address, too.
 */
static __always_inline int wants_proof(const struct cm_address *source, const struct known *known)
{
	if (!known->is_workloads || config.by_address)
		return 0;
	return known->from == CM_IPCACHE_PREFIXES ? !!prefix_device(source) :
						    is_local_workload(source);
}

/*
 * What the ipcache says of a sender that is not this host, else `otherwise`. Only this host is the
 * host: where another sends from its address, that is spoofed or masqueraded, or has moved away from a NIC. A NIC
 * of another namespace is somebody else.
 */
static __always_inline __u32 ipcache_sender(const struct cm_address *source, __u32 otherwise)
{
	struct known known = ipcache_known(source);

	if (known.is_host && is_attached_here(source)) {
		known = known_of(ipcache_lookup_prefix(source));
		if (identity_is_reserved(known.identity))
			return otherwise;
	}
	if (known.from == CM_IPCACHE_NOWHERE || known.identity == IDENTITY_HOST ||
	    wants_proof(source, &known))
		return otherwise;
	return known.identity;
}

/*
 * Whether a packet's mark is one of ours: it tells so itself, or it came in by the device of the workload
 * that has its source address, whose program overwrites marks. (A tc filter that accepts a packet behind
 * our program takes the proof away.)
 */
static __always_inline int is_marked_by_us(const struct __sk_buff *skb, const struct packet *pkt)
{
	const struct cm_endpoint *sender;

	if (mark_is_proven(skb))
		return 1;
	sender = endpoint_here(&pkt->source);
	if (!sender)
		return skb->ingress_ifindex && prefix_device(&pkt->source) == skb->ingress_ifindex;
	return sender->role == CM_ROLE_CONTAINER && sender->ifindex == skb->ingress_ifindex;
}

/*
 * What a packet itself says of its sender, where that is to be believed; else 0. The world, for a
 * workload's packet that came without an identity.
 */
static __always_inline __u32 claimed_identity(struct __sk_buff *skb, const struct packet *pkt)
{
	__u32 mark = pkt->mark_in;

	/* On a bridge the program of a port has marked it already. */
	if (packet_program(pkt) == CM_FROM_NETDEV)
		return mark_is_proven(skb) && mark_magic(mark) == MARK_MAGIC_IDENTITY ?
			       mark_identity(mark) :
			       flow_label_identity(skb, pkt);
	if (is_generated_here(skb, pkt) ||
	    (config.trust_marks && mark_magic(mark) == MARK_MAGIC_HOST))
		return IDENTITY_HOST;
	if (config.trust_proxy && mark_is_proxy(mark))
		return mark_identity(mark);
	if (mark_magic(mark) == MARK_MAGIC_IDENTITY &&
	    (config.trust_marks || is_marked_by_us(skb, pkt)))
		return mark_identity(mark);
	return IDENTITY_WORLD;
}

/* Of a packet whose mark is not what the flow's verdict is about: see claims_another(). */
__noinline int claims_otherwise(struct __sk_buff *skb, const struct packet *pkt, __u32 claimed)
{
	if (!pkt || (mark_is_proven(skb) && mark_magic(pkt->mark_in) != MARK_MAGIC_IDENTITY))
		return 0;
	return claimed_identity(skb, pkt) != claimed;
}

/*
 * Whether a workload's peer, who has begun a flow, tells by this packet to be somebody else than the flow's verdict is
 * about: its identity has been changed, or behind the address of a NAT there is another workload now. What this host
 * itself sends in a flow is a part of it, and so is what another program has taken our mark from. Nearly every packet
 * is done with the mark: what else there is to ask stands in a function of its own.
 */
static __always_inline int claims_another(struct __sk_buff *skb, const struct packet *pkt,
					  const struct cm_flow *flow)
{
	__u32 claimed = flow->claimed_identity;

	if (config.role != CM_ROLE_CONTAINER || packet_direction(pkt) == CM_EGRESS ||
	    (flow->direction == CM_EGRESS && !flow->picked_up) ||
	    (pkt->mark_in ? mark_is_of(skb, pkt->mark_in, claimed) : claimed == IDENTITY_WORLD))
		return 0;
	return !is_generated_here(skb, pkt) && claims_otherwise(skb, pkt, claimed);
}

/*
 * Whether nobody on the wire of a NIC may send from an address that is listed as this host's. In a VRF
 * somebody may: another device of this host, at the other end of the wire.
 */
static __always_inline int refuses_host(void)
{
	return config.role == CM_ROLE_NETDEV && !config.accept_local && !config.in_vrf;
}

/* Who sends from an address on the wire. */
static __always_inline __u32 wire_identity(const struct cm_address *source)
{
	struct known known = ipcache_known(source);

	if (wants_proof(source, &known))
		return IDENTITY_WORLD;
	/* Whatever identity its NIC has: who asks finds out whether it is this host's still. */
	return known.is_host && refuses_host() && is_attached_here(source) ? IDENTITY_HOST :
									     known.identity;
}

/* Who an endpoint's packet comes from: its sender's claim, with what the ipcache knows. */
static __always_inline __u32 source_identity(const struct cm_address *source, __u32 claimed)
{
	__u32 identity = claimed;

	step_begin();
	if (config.role == CM_ROLE_NETDEV)
		identity = claimed ? claimed : wire_identity(source);
	else if (identity_is_reserved(claimed) && claimed != IDENTITY_HOST)
		identity = ipcache_sender(source, claimed);
	step_end(CM_CALL_RESOLVE_SRCID, source, claimed, identity, 0);
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
	if (config.trust_proxy && mark_is_proxy(pkt->mark_in))
		return 0;
	/* Conntrack has no flow of a local workload that is generated here. */
	if (pkt->verdict.is_settled)
		return 1;
	return !is_local_workload(&pkt->source);
}

/* Sent by this host itself: not by a workload, nor by a proxy in a workload's name. */
static __always_inline int is_host_traffic(const struct __sk_buff *skb, const struct packet *pkt)
{
	int answer = is_sent_by_host(skb, pkt);

	step(CM_CALL_IS_HOST_TRAFFIC, &pkt->source, answer, 0, 0);
	return answer;
}

/*
 * Whether a NIC leaves the mark of host traffic as it is. Of what is generated here only our own programs can have
 * set one that says more: any other is somebody else's, whatever it looks like.
 */
static __always_inline int keeps_its_mark(const struct __sk_buff *skb, const struct packet *pkt)
{
	return mark_is_ours(pkt->mark_in) && (mark_is_proven(skb) || !is_generated_here(skb, pkt));
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
