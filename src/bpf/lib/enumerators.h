/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Constants that Rust shares. An enum that is no field of a map's value or of an event reaches the object's BTF
 * only through a variable.
 */
#ifndef CILMARK_ENUMERATORS_H
#define CILMARK_ENUMERATORS_H

#include "abi/config.h"
#include "abi/events.h"
#include "abi/explain.h"
#include "abi/maps.h"

/* Never written. */
struct cm_enumerators {
	enum cm_limit limit;
	enum cm_ct_age ct_age;
	enum cm_ct_lifetime ct_lifetime;
	enum cm_map_limit map_limit;
	enum cm_origin origin;
	enum cm_index_slot index_slot;
	enum cm_index_known index_known;
	enum cm_index_size index_size;
	enum cm_policy_beside policy_beside;
	enum cm_policy_flags policy_flags;
	enum cm_policy_slot policy_slot;
	enum cm_rule_holders rule_holders;
	enum cm_id_rules_list id_rules_list;
	enum cm_ct_state ct_state;
	enum cm_ct_picked_up ct_picked_up;
	enum cm_flow_class flow_class;
	enum cm_flow_size flow_size;
	enum cm_flow_edits flow_edits;
	enum cm_counter counter;
	enum cm_rule_number rule_number;
	enum cm_ipcache_source ipcache_source;
	enum cm_ct_seen ct_seen;
} enumerators_layout;

_Static_assert(sizeof(struct cm_enumerators) % 8 == 0, "variable without tail padding");

#endif
