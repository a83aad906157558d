//! The enumerators of src/bpf/abi/, which build.rs takes from the object's BTF, and what output calls them.

include!(concat!(env!("OUT_DIR"), "/enumerators.rs"));

/// The name of a number in one of the tables.
pub fn name(names: &'static [(u32, &'static str)], number: u32) -> Option<&'static str> {
    names.iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The enumerators of an enum in a header.
    fn enumerators<'a>(header: &'a str, of: &str) -> Vec<&'a str> {
        let (_, body) = header.split_once(&format!("enum {of} {{\n")).expect("the enum");
        let (body, _) = body.split_once("};").expect("its end");
        let is_enumerator = |line: &&str| line.starts_with("\tCM_");
        body.lines()
            .filter(is_enumerator)
            .filter_map(|line| line.split_whitespace().next())
            .collect()
    }

    #[test]
    fn whatever_output_shows_has_a_name_of_its_own() {
        let events = include_str!("../bpf/abi/events.h");
        let explain = include_str!("../bpf/abi/explain.h");
        for (header, of, names, bounds) in [
            (events, "cm_reason", CM_REASON_NAMES, 1),
            (events, "cm_counter", CM_COUNTER_NAMES, 1),
            (events, "cm_rule_number", CM_RULE_NUMBER_NAMES, 1),
            (explain, "cm_call", CM_CALL_NAMES, 0),
        ] {
            let numbers = enumerators(header, of).len() - bounds;
            assert_eq!(names.len(), numbers, "{of}");
            for (number, text) in names {
                assert_eq!(
                    name(names, *number),
                    Some(*text),
                    "two enumerators of {of} are {number}"
                );
                let count = names.iter().filter(|(_, other)| other == text).count();
                assert_eq!(count, 1, "{of} has two that are called {text}");
            }
        }
    }

    #[test]
    fn no_counter_has_the_number_of_a_reason() {
        let is_reason = |number| name(CM_REASON_NAMES, number).is_some();
        assert!(CM_COUNTER_NAMES.iter().all(|(number, _)| !is_reason(*number)));
    }

    #[test]
    fn an_enumerator_is_called_by_its_cm_name_or_by_what_follows_the_prefix() {
        assert_eq!(name(CM_REASON_NAMES, CM_DROP_POLICY), Some("Policy denied"));
        assert_eq!(name(CM_RULE_NUMBER_NAMES, CM_RULE_ANOTHER_NIC), Some("another NIC"));
        assert_eq!(name(CM_RULE_NUMBER_NAMES, CM_RULE_FIRST), None);
        assert_eq!(name(CM_CALL_NAMES, CM_CALL_CT_LOOKUP), Some("ct_lookup"));
        assert_eq!(name(CM_PROGRAM_NAMES, CM_TO_NETDEV), Some("to_netdev"));
    }
}
