/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The identity in the IPv6 flow label: opt-in, for peers that see each other's packets unencapsulated. */
#ifndef CILMARK_FLOW_LABEL_H
#define CILMARK_FLOW_LABEL_H

#include "abi/config.h"
#include "abi/explain.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "endpoint.h"
#include "explain.h"
#include "identity.h"
#include "packet.h"

/*
 * Writes our identity into an IPv6 packet: 0, or a negative errno. The first word of the header has
 * version, traffic class, and 20 bits of label.
 */
static __always_inline int flow_label_set(struct __sk_buff *skb, const struct packet *pkt)
{
	__be32 label_mask = bpf_htonl(IDENTITY_FLOW_LABEL_MAX);
	__be32 word;
	int error;

	if (pkt->source.family != CM_IPV6)
		return 0;
	error = bpf_skb_load_bytes(skb, pkt->l3_offset, &word, sizeof(word));
	if (error)
		return error;
	word = (word & ~label_mask) | (config.identity_nb & label_mask);
	/* No checksum of the packet covers the label; a NIC's sum over the whole frame does. */
	error = bpf_skb_store_bytes(skb, pkt->l3_offset, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM);
	step(CM_CALL_FLOW_LABEL_SET, NULL, error, 0, 0);
	return error;
}

static __always_inline int flow_label_is_trusted(const struct packet *pkt)
{
	const __be32 *source = address_words(&pkt->source);

	if (!config.trust_flow_label || pkt->source.family != CM_IPV6)
		return 0;
#pragma clang loop unroll(full)
	for (int i = 0; i < 4; i++)
		if ((source[i] & config.flow_label_mask.words[i]) !=
		    config.flow_label_prefix.words[i])
			return 0;
	return 1;
}

/* The identity that a trusted peer wrote, or 0. Nobody on a wire is this host. */
static __always_inline __u32 flow_label_identity(struct __sk_buff *skb, const struct packet *pkt)
{
	__u32 identity;
	__be32 word;

	if (!flow_label_is_trusted(pkt) ||
	    bpf_skb_load_bytes(skb, pkt->l3_offset, &word, sizeof(word)))
		return IDENTITY_UNKNOWN;
	identity = bpf_ntohl(word) & IDENTITY_FLOW_LABEL_MAX;
	return identity == IDENTITY_HOST || identity == config.identity ? IDENTITY_UNKNOWN :
									  identity;
}

#endif
