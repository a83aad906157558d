/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the kernel's routing tables say of an address, now. */
#ifndef CILMARK_ROUTE_H
#define CILMARK_ROUTE_H

#include "abi.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "endpoint.h"
#include "explain.h"
#include "packet.h"

/* Of IPv6: nobody routes what comes from a link-local, multicast or loopback address. */
static __always_inline int is_never_routed(const struct cm_address *source)
{
	const __be32 *words = address_words(source);

	return source->family == CM_IPV6 &&
	       (is_link_local(source) || source->bytes[0] == 0xff ||
		!(words[0] | words[1] | words[2] | (words[3] ^ bpf_htonl(1))));
}

/* The helper says nothing for such a source: it is left out. */
static __always_inline void route_ends(struct bpf_fib_lookup *fib, const struct cm_address *source,
				       const struct cm_address *destination)
{
	fib->family = destination->family == CM_IPV4 ? AF_INET : AF_INET6;
	if (!is_never_routed(source))
		__builtin_memcpy(fib->source, source->bytes, sizeof(fib->source));
	__builtin_memcpy(fib->destination, destination->bytes, sizeof(fib->destination));
}

/*
 * BPF_FIB_LKUP_RET_*, of an address, or with NULL of one of IPv4 that nobody has (240.0.0.1). The other end is asked
 * for by rules such as `ip rule add from`. A global
 * function for its stack, as all here: kernels round each frame up to 32 bytes, and 512 have to do for a chain of calls.
 */
__noinline long route_of(struct __sk_buff *skb, const struct cm_address *address,
			 const struct cm_address *peer, __u32 flags)
{
	struct bpf_fib_lookup fib = { .ifindex = skb->ifindex };
	long result;

	if (!peer)
		return BPF_FIB_LKUP_RET_NOT_FWDED;
	if (!address) {
		fib.family = AF_INET;
		fib.source[0] = ((const __be32 *)peer->bytes)[0];
		fib.destination[0] = bpf_htonl(0xf0000001);
		return bpf_fib_lookup(skb, &fib, sizeof(fib), flags);
	}
	route_ends(&fib, peer, address);
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), flags);
	step(CM_CALL_FIB_LOOKUP, address, result, 0, 0);
	return result;
}

/*
 * The bits of an IP header that routes may depend on, as bpf_fib_lookup() takes them: TOS or traffic class.
 * 0 where the header does not lie at hand.
 */
static __always_inline __be32 route_class(struct __sk_buff *skb, const struct packet *pkt)
{
	const __be32 *word = header_at(skb, pkt->l3_offset, sizeof(*word));

	if (!word)
		return 0;
	if (pkt->source.family == CM_IPV6)
		return *word & bpf_htonl(0x0ff00000);
	return bpf_ntohl(*word) >> 16 & 0xff;
}

/*
 * BPF_FIB_LKUP_RET_*, of where a packet that comes in by this device goes, by all that rules may ask: its
 * answer is asked about as the packet that it answers. The mark is looked at by Linux 6.10 and later.
 */
__noinline long route_of_packet(struct __sk_buff *skb, const struct packet *pkt, int is_answer)
{
	struct bpf_fib_lookup fib = { .ifindex = skb->ifindex };
	const struct cm_address *address;
	long result = -EINVAL;

	if (!pkt)
		return BPF_FIB_LKUP_RET_NOT_FWDED;
	address = is_answer ? &pkt->source : &pkt->destination;

	route_ends(&fib, is_answer ? &pkt->destination : &pkt->source, address);
	if (!is_icmp(pkt)) {
		fib.sport = is_answer ? pkt->dport : pkt->sport;
		fib.dport = is_answer ? pkt->sport : pkt->dport;
	}
	fib.l4_protocol = pkt->l4_protocol;
	fib.tos_or_flowinfo = route_class(skb, pkt);
	fib.mark = mark_get(skb);
	if (fib.mark)
		result = bpf_fib_lookup(skb, &fib, sizeof(fib), BPF_FIB_LOOKUP_MARK);
	if (result == -EINVAL)
		result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	step(CM_CALL_FIB_LOOKUP, address, result, 0, 0);
	return result;
}

/* The kernel keeps it: for itself, or for nobody. Without forwarding it keeps all that it gets. */
static __always_inline int route_stays_here(long route)
{
	return route == BPF_FIB_LKUP_RET_NOT_FWDED || route == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/*
 * Whether a route that stays here is for certain one to an address of this host, and not that to nobody: of IPv4 any
 * other address has a route, of IPv6 this one has in the main table, or the VRF's. (Of IPv4 the main table is one with
 * that of the local addresses, as long as there are no rules.)
 */
static __always_inline int route_is_local(struct __sk_buff *skb, const struct cm_address *address,
					  const struct cm_address *peer, long route)
{
	int is_ipv4 = address->family == CM_IPV4;

	return route == BPF_FIB_LKUP_RET_NOT_FWDED &&
	       route_of(skb, is_ipv4 ? NULL : address, peer, is_ipv4 ? 0 : BPF_FIB_LOOKUP_DIRECT) !=
		       BPF_FIB_LKUP_RET_NOT_FWDED;
}

#endif
