/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What is found out about a packet that its flow's entry does not settle, from question to question. */
#ifndef CILMARK_POLICY_CTX_H
#define CILMARK_POLICY_CTX_H

#include "abi/maps.h"

/* What conntrack has on a packet's 5-tuple. */
enum ct_result {
	CT_MISS,
	CT_KNOWN,
	CT_REPLACED, /* an older flow, in whose place this one comes */
	CT_FRESH, /* the flow, allowed by the rules of today; its entry knows of this packet already */
};

/* Whether other NICs that a flow of the host has passed are asked about it, and what they have said. */
enum other_nics {
	OTHER_NICS_HAVE_NO_SAY,
	OTHER_NICS_ASK, /* first, then come again */
	OTHER_NICS_ASKED, /* or a reason for which one of them denies it that enforces */
};

/* In which of its two buckets a flow was found. */
enum ct_place {
	CT_NOWHERE,
	CT_IN_FIRST,
	CT_IN_SECOND,
	CT_NOT_READ, /* nobody has looked */
};

/* Where a flow may be in its table, and what is told of it there. */
struct flow_place {
	__u32 buckets[2];
	__u8 tag;
	__u8 scope; /* scope_byte(), of one that is written */
	__u8 pad[2];
};

/*
 * Answers go into this memory of the caller's, of which the verifier knows nothing, and are read from
 * there (barrier()): so it walks on once behind each question, whatever the answer was.
 */
struct policy_ctx {
	struct cm_flow flow; /* as found, or a new one */
	__u32 expires; /* of what was found, or 0 */
	struct flow_place where; /* somebody has looked */
	union {
		/* Rules: a number, shifted by its entry's flags; 0 for none. */
		struct {
			__u32 own; /* of those about the other end's identity */
			__u32 any; /* of those about everybody */
		};
		__u64 scan; /* what flow_scan() has said, once all is decided */
	};
	__s16 verdict; /* 0, or a negative reason */
	__u8 ct; /* enum ct_result */
	__u8 is_enforced; /* the policy of the flow's direction */
	__u8 log_verdict; /* the verdict is none that conntrack had */
	__u8 create_ct; /* conntrack shall have it */
	__u8 bypasses; /* the policy has no say */
	__u8 is_to_host; /* what a workload sends: this host is at the other end */
	__u8 tells_host; /* the answer may be another one if it is, and nobody has asked */
	__u8 place; /* enum ct_place */
	__u8 class; /* enum cm_flow_class, of the flow when it is written */
	__u8 displaced; /* the class of whom it has displaced, and 1 more; or 0 */
	__u8 is_orphan : 1; /* a later fragment whose first one was dropped */
	/* The flow in whose place this one comes goes on by other NICs, for all that is known here. */
	__u8 is_in_use : 1;
	__u8 nic; /* whose policy is asked: its slot; 0 for a workload */
	__u8 other_nics; /* enum other_nics, or a reason */
	__u8 fallback; /* enum cm_fallback: what counts there instead of what was asked for */
};

_Static_assert(sizeof(struct policy_ctx) == 64, "of a stack that is full");

#endif
