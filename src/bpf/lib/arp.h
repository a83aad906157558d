/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The ARP responder: a workload whose neighbours are all behind this device needs no bridge. */
#ifndef CILMARK_ARP_H
#define CILMARK_ARP_H

#include "abi/events.h"
#include "abi/explain.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "config.h"
#include "drop.h"
#include "endpoint.h"
#include "explain.h"
#include "metrics.h"
#include "packet.h"

/*
 * A probe (RFC 5227: sender 0.0.0.0) and an announcement ask whether somebody else has the address:
 * an answer would make the workload give it up.
 */
static __always_inline int arp_wants_answer(const struct packet *pkt)
{
	return config.arp_responder && pkt->arp_operation == ARPOP_REQUEST &&
	       !is_unspecified(&pkt->source) && !is_own_address(&pkt->destination) &&
	       !(has_prefixes() && pkt->verdict.is_stacks) &&
	       !words_equal(address_words(&pkt->source), address_words(&pkt->destination));
}

static __always_inline int arp_turn_round(struct __sk_buff *skb, const struct packet *pkt)
{
	struct arp_eth_ipv4 arp;
	__u8 macs[2 * ETH_ALEN];
	int error = bpf_skb_load_bytes(skb, pkt->l3_offset, &arp, sizeof(arp));

	if (error)
		return error;
	arp.ar_op = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(macs, arp.ar_sha, ETH_ALEN);
	__builtin_memcpy(arp.ar_tha, arp.ar_sha, ETH_ALEN);
#pragma clang loop unroll(full)
	for (int i = 0; i < ETH_ALEN; i++) {
		arp.ar_sha[i] = config.mac[i];
		macs[ETH_ALEN + i] = config.mac[i];
	}
	__builtin_memcpy(arp.ar_sip, pkt->destination.bytes, sizeof(arp.ar_sip));
	__builtin_memcpy(arp.ar_tip, pkt->source.bytes, sizeof(arp.ar_tip));
	error = bpf_skb_store_bytes(skb, pkt->l3_offset, &arp, sizeof(arp), 0);
	return error ? error : bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
}

/* Sends the request back as its answer. */
static __always_inline int arp_answer(struct __sk_buff *skb, const struct packet *pkt)
{
	if (arp_turn_round(skb, pkt))
		return drop(skb, pkt, -CM_DROP_WRITE_ERROR);
	count_packet(skb, pkt, CM_FORWARDED);
	step(CM_CALL_ARP_ANSWER, &pkt->destination, 0, 0, 0);
	/* Not config.ifindex: in another namespace that may be another device. */
	return bpf_redirect(skb->ifindex, 0);
}

#endif
