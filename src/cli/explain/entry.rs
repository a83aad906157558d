//! An entry of conntrack, in words.

use crate::kernel::abi::{cm_config, cm_ct_seen};
use crate::ops::explain::Step;

/// By `enum cm_ct_seen`, and the jiffies that are left.
pub fn words(known: &Step, config: &cm_config, flags: u64, left: u64) -> String {
    let seen = |flag: cm_ct_seen| flags & u64::from(flag.0) != 0;
    if !seen(cm_ct_seen::CM_CT_SEEN_ENTRY) {
        return "no entry".to_owned();
    }
    let denied = seen(cm_ct_seen::CM_CT_SEEN_DENIED);
    let allowed = if denied { "denied" } else { "allowed" };
    let by = match &known.nic {
        Some(nic) => format!(" by {nic}"),
        None => by(known),
    };
    let mut words = vec![format!("{allowed}{by}")];
    let mut say = |text: &str| words.push(text.to_owned());
    match seen(cm_ct_seen::CM_CT_SEEN_REPLY) {
        true => say("this is a reply"),
        false => say("this is its direction"),
    }
    if seen(cm_ct_seen::CM_CT_SEEN_STALE) {
        say("decided under older rules");
    }
    if seen(cm_ct_seen::CM_CT_SEEN_ANOTHER) {
        say("decided about another sender");
    }
    if seen(cm_ct_seen::CM_CT_SEEN_PICKED_UP) {
        say("adopted");
    }
    if seen(cm_ct_seen::CM_CT_SEEN_MASQUERADED) {
        say("masqueraded");
    }
    if !seen(cm_ct_seen::CM_CT_SEEN_VALID) {
        say("over, or begun anew by this packet");
    } else {
        let jiffies = u64::from(config.jiffies_per_second.max(1));
        words.push(format!("{} s left", left / jiffies));
    }
    format!("an entry: {}", words.join(", "))
}

/// `, rule: …`, if one matched.
pub fn by(known: &Step) -> String {
    known.rule.as_ref().map(|rule| format!(", rule: {rule}")).unwrap_or_default()
}
