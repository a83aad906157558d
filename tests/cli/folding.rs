//! `CILMARK_FOLD`: programs as they were compiled, in the place of folded ones.

use crate::common::World;
use crate::common::process::{Run, cilmark};

fn with_fold(value: &str, arguments: &str) -> Run {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    cilmark(&arguments).env("CILMARK_FOLD", value).output().expect("run cilmark").into()
}

/// Everything on, so that nothing of the programs is dead.
const CONTAINER: &str = "attach web --id 1234 --ip 10.1.0.10 fd00:1::10 --policy enforce --yes \
                         --local-delivery --arp-responder --flow-label --trust-proxy --trust-marks \
                         --by-address --router";
const NETDEV: &str = "attach eth0 --role netdev --id 77 --policy enforce --yes --local-delivery \
                      --stamp-remote --trust-flow-label fd00::/16 --trust-proxy";

fn instructions(world: &World, pin: &str) -> u64 {
    let id = world.program_id(&format!("/sys/fs/bpf/cilmark/endpoints/{pin}"));
    let facts = world.sh(&format!("bpftool -j prog show id {id}"));
    let facts: serde_json::Value = serde_json::from_str(&facts).expect("JSON of bpftool");
    facts["bytes_xlated"].as_u64().expect("bytes") / 8
}

#[test]
fn the_kernel_takes_all_programs_as_they_were_compiled() {
    let Some(world) = World::new() else { return };
    world.workload("web", 1);
    world.veth("eth0");
    let mut sizes = Vec::new();
    let mut answers = [Vec::new(), Vec::new()];
    for value in ["on", "off"] {
        for attach in [CONTAINER, NETDEV] {
            let run = with_fold(value, &format!("-v {attach}"));
            assert_eq!(run.status, Some(0), "{run:?}");
            assert_eq!(run.stderr.contains("CILMARK_FOLD=off"), value == "off", "{run:?}");
        }
        for question in [
            "web from --src 10.1.0.10 --dst 10.2.0.10 --dport 80",
            "eth0 from --src 10.2.0.10 --dst 192.0.2.1 --dport 80",
        ] {
            // 3: what is dropped.
            let run = with_fold(value, &format!("explain {question}"));
            assert_eq!((run.status, run.stderr.as_str()), (Some(3), ""), "{run:?}");
            answers[usize::from(value == "off")].push(run.stdout);
        }
        let pins = ["1/ingress", "1/egress", "2/ingress", "2/egress"];
        sizes.push(pins.map(|pin| instructions(&world, pin)));
    }
    assert!(sizes[0].iter().zip(&sizes[1]).all(|(folded, all)| folded < all), "{sizes:?}");
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn another_value_is_refused_and_nothing_has_changed() {
    let Some(world) = World::new() else { return };
    world.workload("web", 1);
    for value in ["no", ""] {
        with_fold(value, "attach web --id 1234").fails(1, &["CILMARK_FOLD", "`on` or `off`"]);
        assert_eq!(world.pins(), [""; 0]);
    }
}
