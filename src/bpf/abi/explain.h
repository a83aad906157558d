/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The steps of one packet, as `cilmark explain` shows them. */
#ifndef CILMARK_ABI_EXPLAIN_H
#define CILMARK_ABI_EXPLAIN_H

#include "vmlinux.h"
#include "abi/config.h"
#include "abi/events.h"

/* What a packet's way through a program consists of, as `cilmark explain` shows it. */
enum cm_call {
	CM_CALL_CHECK_SOURCE = 1, /* the source; reason, or 0 */
	CM_CALL_ARP_ANSWER = 2, /* the address that is asked for */
	CM_CALL_FLOW_LABEL_SET = 3, /* errno, or 0 */
	CM_CALL_POLICY_CLEAR_MARK = 4,
	CM_CALL_POLICY_VERDICT =
		5, /* ingress, egress enforced; calls what follows, up to an end of it */
	CM_CALL_CT_LOOKUP = 6, /* rule, enum cm_ct_seen | enum cm_ct_state << 16, jiffies left */
	CM_CALL_IS_HOST_TRAFFIC = 7, /* the source; yes or no */
	CM_CALL_IS_FOR_HOST = 8, /* the destination; yes or no */
	CM_CALL_FIB_LOOKUP = 9, /* an address; BPF_FIB_LKUP_RET_* */
	/* reason, or 0; source port << 16 | destination port; whether the first one was dropped */
	CM_CALL_FRAGMENT_FIND_PORTS = 10,
	/* enum cm_direction, by which other NIC's slot and 1 more, or 0; up to its CM_CALL_POLICY_LOOKUP */
	CM_CALL_POLICY_CHECK = 11,
	CM_CALL_RESOLVE_SRCID = 12, /* the source; identity that was claimed, identity */
	CM_CALL_IPCACHE_LOOKUP = 13, /* an address; identity, enum cm_ipcache_source, is_host */
	CM_CALL_POLICY_LOOKUP = 14, /* direction << 24 | protocol << 16 | port, peer, reason */
	CM_CALL_CT_CREATE = 15, /* 1: new, 0: written again */
	CM_CALL_KEEP_MASQUERADED = 16, /* ends the verdict: no policy applies */
	CM_CALL_FINISH_VERDICT = 17, /* reason, rule, whether it is enforced; ends the verdict */
	CM_CALL_TRACE = 18, /* what follows only serves to report the packet */
	CM_CALL_TO_CONTAINER = 19, /* endpoint, its workload's MAC or 0; it calls what follows */
	CM_CALL_STACK_FLOW = 20, /* the flow is the stack's */
};

enum cm_ipcache_source {
	CM_IPCACHE_NOWHERE = 0,
	CM_IPCACHE_HOSTS = 1, /* cm_ipcache */
	CM_IPCACHE_PREFIXES = 2, /* cm_ipcache_cidr */
	CM_IPCACHE_INDEX = 3, /* cm_ipcache_idx */
};

enum cm_ct_seen {
	CM_CT_SEEN_ENTRY = 1 << 0, /* there is one */
	CM_CT_SEEN_VALID = 1 << 1, /* the packet goes on with it */
	CM_CT_SEEN_REPLY = 1 << 2, /* it went the other way */
	CM_CT_SEEN_STALE = 1 << 3, /* its verdict is of another generation */
	CM_CT_SEEN_PICKED_UP = 1 << 4,
	CM_CT_SEEN_MASQUERADED = 1 << 5,
	CM_CT_SEEN_DENIED = 1 << 6, /* by the rules, as audit has asked them */
	CM_CT_SEEN_ANOTHER = 1 << 7, /* its verdict is about another sender */
};

enum {
	CM_MAX_STEPS = 128, /* of one packet; no way through the programs is that long */
	CM_MAX_BEGUN = 8, /* calls in each other that have no answer yet */
};

struct cm_step {
	enum cm_call call;
	__u32 depth; /* of what the program itself calls: 1; one more below each call of which it is a callee */
	struct cm_address address; /* family 0: none */
	__u32 callees; /* how many steps right before this one belong to the call */
	__u64 values[3];
};

/* cm_steps: what a private copy of a program did with its one packet. */
struct cm_explanation {
	/*
	 * The last one that an attached program would have sent. In front, because Linux 6.1 adds no
	 * offset to what may be NULL, and clang does before the test.
	 */
	struct cm_event event;
	__u32 count; /* of the steps */
	__u32 open; /* calls that have not returned */
	__u32 begun; /* calls that tell of themselves when they have their answer */
	__u32 first[CM_MAX_BEGUN]; /* the step that comes first in each */
	__u32 pad;
	struct cm_step steps[CM_MAX_STEPS];
};

_Static_assert(sizeof(struct cm_step) == 56, "map value without padding");
_Static_assert(sizeof(struct cm_explanation) == 48 + 128 * 56 + 112, "map value without padding");

#endif
