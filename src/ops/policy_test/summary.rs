//! What would become of the flows that are up, in a sentence or three.

use super::Outcome;
use crate::model::policy::live::Kind;

impl Outcome {
    /// How many have which verdict, and of those that no rule allows how many go on.
    pub fn summary(&self) -> Vec<String> {
        let of = |kind| self.counts[&kind];
        let all: usize = self.counts.values().sum();
        let mut lines = vec![format!(
            "{all} {}: {} allowed, {} without a rule, {} denied, {} unknown",
            if all == 1 { "flow" } else { "flows" },
            of(Kind::Allow),
            of(Kind::NoRule),
            of(Kind::Deny),
            of(Kind::Unknown)
        )];
        let (adopted, active, without) = (self.adopted, self.adopted_if_active, of(Kind::NoRule));
        if without > 0 {
            lines.push(format!(
                "without a rule: {} are cut at once; {adopted} are adopted: they go on, new ones like them are refused \
                 (--adopt)",
                without - adopted - active
            ));
        }
        if active > 0 {
            lines.push(format!(
                "{active} more are adopted only if a packet of theirs comes while flows are adopted (--adopt): what is idle \
                 then is cut"
            ));
        }
        if self.by_first_packet > 0 {
            lines.push(format!(
                "unknown: {} go on only if the end that began them sends first; the kernel's conntrack and --adopt would \
                 take them over",
                self.by_first_packet
            ));
        }
        lines
    }
}
