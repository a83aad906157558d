/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Lookups in the kernel's routing tables (bpf_fib_lookup()). */
#ifndef CILMARK_ROUTE_H
#define CILMARK_ROUTE_H

#include "abi/config.h"
#include "abi/explain.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "endpoint.h"
#include "explain.h"
#include "packet.h"

/* IPv6 packets from a link-local, multicast or loopback address are never forwarded. */
static __always_inline int is_never_routed(const struct cm_address *source)
{
	const __be32 *words = address_words(source);

	return source->family == CM_IPV6 &&
	       (is_link_local(source) || source->bytes[0] == 0xff ||
		!(words[0] | words[1] | words[2] | (words[3] ^ bpf_htonl(1))));
}

/* For a source that is never routed the helper answers NOT_FWDED, whatever the destination is: so it is left out. */
static __always_inline void route_ends(struct bpf_fib_lookup *fib, const struct cm_address *source,
				       const struct cm_address *destination)
{
	fib->family = destination->family == CM_IPV4 ? AF_INET : AF_INET6;
	if (!is_never_routed(source))
		__builtin_memcpy(fib->source, source->bytes, sizeof(fib->source));
	__builtin_memcpy(fib->destination, destination->bytes, sizeof(fib->destination));
}

/*
 * Looks up the route to an address: BPF_FIB_LKUP_RET_*, or a negative error. NULL stands for an IPv4 address that nobody
 * can have (240.0.0.1). `peer` is the source of the lookup, on which policy routing (`ip rule add from`) may depend.
 *
 * Lookups are global functions, to keep struct bpf_fib_lookup off their callers' stack: a chain of calls has 512 bytes,
 * and kernels round each frame up to 32.
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
 * TOS or traffic class, on which routes may depend, as bpf_fib_lookup() takes it; 0 if the header is not in the linear
 * part of the packet.
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
 * Looks up where the kernel would send a packet that comes in by this device, with everything that policy routing may
 * depend on: BPF_FIB_LKUP_RET_*, or a negative error. With `is_answer` the packet goes out by this device, and the
 * lookup is about the one that it answers: source and destination swapped. Kernels before 6.10 do not know
 * BPF_FIB_LOOKUP_MARK (-EINVAL), and look up without the mark.
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

/*
 * Whether the kernel would not forward: the address is local, has no route, or the device has forwarding switched off,
 * where everything received stays here.
 */
static __always_inline int route_stays_here(long route)
{
	return route == BPF_FIB_LKUP_RET_NOT_FWDED || route == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

/*
 * Whether NOT_FWDED means for certain that the address is local, and not that it has no route. A second lookup tells.
 * For IPv4: if an address that nobody has finds a route (a default route), a missing route can't be the reason. For IPv6:
 * the main table, or the VRF's, asked alone (BPF_FIB_LOOKUP_DIRECT), has a route to the network of a local address. For
 * IPv4 that would not do, because without rules main and local are one table.
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
