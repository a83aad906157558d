//! Half a million random frames through each program: none fails, none gets a wrong mark, and none is
//! changed in any way but the one that its program is for. What is expected is derived here from the
//! outermost headers only, never by another parser.

use cilmark::kernel::abi::__sk_buff;
use cilmark::kernel::sys::{self, Hook};
use cilmark::model::identity::Identity;
use cilmark::model::mark::Mark;

use super::*;
use crate::common::Fixture;
use crate::common::fixture::Setup;
use crate::common::machine::repetitions;
use crate::common::program::{Endpoint, Verdict};
use crate::common::random::{Ingredients, Random};

const SEED: u64 = 0xc11_4a2c;

/// Known to the ipcache by an identity that fits no mark.
const BIG4: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 10);
const BIG6: Ipv6Addr = Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 0x10);
const BIG_ID: u32 = 0x0100_04d2;

const IPV4: [[u8; 4]; 7] = {
    let own = OWN4.octets();
    [own, own, own, own, PEER4.octets(), BIG4.octets(), [0; 4]]
};
const IPV6: [[u8; 16]; 8] = {
    let own = OWN6.octets();
    [own, own, own, own, PEER6.octets(), BIG6.octets(), LINK_LOCAL.octets(), [0; 16]]
};

/// How many frames go through each program.
fn runs() -> u64 {
    repetitions(500_000)
}

/// One run, before and after.
struct Run<'a> {
    bytes: &'a [u8],
    mark: u32,
    forwarded: bool,
    ethernet: bool,
    verdict: Verdict,
    bytes_after: &'a [u8],
    mark_after: u32,
}

/// How often each happened, so that no claim holds for want of an example.
#[derive(Debug, Default)]
struct Tally {
    passed: u64,
    dropped: u64,
    redirected: u64,
    stamped: u64,
}

/// Runs a share of the frames through each endpoint; `is_right` says whether it may be so.
fn run_all(
    endpoints: &[Endpoint<'_>],
    hook: Hook,
    is_right: impl Fn(usize, &Run<'_>) -> bool,
) -> Tally {
    println!("seed {SEED:#x}, {} frames", runs());
    let mut tally = Tally::default();
    let mut frame = Vec::new();
    for number in 0..runs() {
        let which = (number % endpoints.len() as u64) as usize;
        let endpoint = &endpoints[which];
        let random = &mut Random(SEED ^ number << 32);
        let ethernet = endpoint.has_ethernet;
        Ingredients { ethernet, ipv4: &IPV4, ipv6: &IPV6 }.mix(random, &mut frame);
        let mark = random_mark(random);
        let forwarded = random.once_in(2);
        let mut context =
            __sk_buff { mark, ingress_ifindex: forwarded.into(), ..__sk_buff::default() };
        let run = sys::test_run(endpoint.program(hook), &frame, &mut context, 1)
            .unwrap_or_else(|error| panic!("frame {number}: {error}: {frame:02x?}"));
        let verdict = Verdict::from_action(run.action);
        match verdict {
            Verdict::Pass => tally.passed += 1,
            Verdict::Drop => tally.dropped += 1,
            Verdict::Redirect => tally.redirected += 1,
        }
        tally.stamped += u64::from(context.mark != mark && context.mark & 0x0f00 == 0x0f00);
        let run = Run {
            bytes: &frame,
            mark,
            forwarded,
            ethernet,
            verdict,
            bytes_after: &run.packet,
            mark_after: context.mark,
        };
        assert!(
            is_right(which, &run),
            "frame {number} of seed {SEED:#x}, endpoint {which}: {verdict:?}, mark {mark:#010x} to \
             {:#010x}, forwarded {forwarded}\n{frame:02x?}\n{:02x?}",
            run.mark_after,
            run.bytes_after
        );
    }
    println!("{tally:?}");
    tally
}

fn random_mark(random: &mut Random) -> u32 {
    let number = random.number() as u32;
    match random.below(4) {
        0 => 0,
        1 => number,
        2 => number & NOT_OURS,
        _ => random.pick(&OUR_MARKS) | number & NOT_OURS,
    }
}

impl Run<'_> {
    fn is_unchanged(&self) -> bool {
        self.bytes == self.bytes_after
    }

    fn kept(&self) -> u32 {
        self.mark & NOT_OURS
    }

    fn has_mark(&self, mark: u32) -> bool {
        self.mark_after == mark
    }

    /// The ethertype behind up to two tags, and where its header begins.
    fn network(&self) -> (u16, usize) {
        let word = |at: usize| match self.bytes.get(at..at + 2) {
            Some(bytes) => u16::from_be_bytes([bytes[0], bytes[1]]),
            None => 0,
        };
        if !self.ethernet {
            return match self.bytes[0] >> 4 {
                4 => (0x0800, 0),
                6 => (0x86dd, 0),
                _ => (0, 0),
            };
        }
        let is_tag = |at: usize| [0x8100, 0x88a8].contains(&word(at));
        let at = (12..=16).step_by(4).find(|at| !is_tag(*at)).unwrap_or(20);
        (word(at), at + 2)
    }

    /// The source address, also of ARP.
    fn source(&self) -> Option<IpAddr> {
        let (ethertype, at) = self.network();
        let bytes = |from: usize, length: usize| self.bytes.get(at + from..at + from + length);
        let v4 = |from| Some(IpAddr::from(<[u8; 4]>::try_from(bytes(from, 4)?).ok()?));
        match ethertype {
            0x0800 => v4(12),
            0x0806 => v4(14),
            0x86dd => Some(IpAddr::from(<[u8; 16]>::try_from(bytes(8, 16)?).ok()?)),
            _ => None,
        }
    }

    fn flow_label(&self) -> u32 {
        let at = self.network().1;
        self.bytes
            .get(at..at + 4)
            .map_or(0, |word| u32::from_be_bytes(word.try_into().expect("four bytes")) & 0xf_ffff)
    }

    /// Whether nothing but the flow label has changed, and that to an identity.
    fn is_labelled(&self, identity: u32) -> bool {
        let at = self.network().1;
        let label = [identity >> 16 & 0xf, identity >> 8 & 0xff, identity & 0xff];
        let labelled = |(index, byte): (usize, &u8)| match index.wrapping_sub(at) {
            1 => byte & 0xf0 | label[0] as u8,
            2 => label[1] as u8,
            3 => label[2] as u8,
            _ => *byte,
        };
        self.bytes.iter().enumerate().map(labelled).eq(self.bytes_after.iter().copied())
    }
}

fn stamp(identity: u32) -> u32 {
    Mark::encode(Identity(identity)).expect("24 bits").0
}

fn is_ours(mark: u32) -> bool {
    [0x0200, 0x0a00, 0x0b00, 0x0c00, 0x0d00, 0x0e00, 0x0f00].contains(&(mark & 0x0f00))
}

/// Half of the endpoints are traced: that takes other ways through the programs.
fn quiet(setup: Setup<'_>) -> Setup<'_> {
    setup.tune(|config| config.events_per_second = 100)
}

#[test]
fn half_a_million_random_frames_from_a_container() {
    let Some(fixture) = Fixture::new() else { return };
    let own = || quiet(fixture.container(WIDE_ID)).address(OWN4).address(OWN6);
    let endpoints = [
        own().load(),
        own().feature(|on| on.arp_responder = true).feature(|on| on.flow_label = true).load(),
        quiet(fixture.container(WIDE_ID)).untraced().load(),
        own().without_ethernet().untraced().load(),
    ];
    let tally = run_all(&endpoints, Hook::Ingress, |which, run| {
        let (ethertype, _) = run.network();
        let may_send = match run.source() {
            _ if which == 2 => true,
            Some(IpAddr::V4(source)) => source == OWN4 || source.is_unspecified(),
            Some(IpAddr::V6(source)) => {
                source == OWN6 || source.is_unspecified() || source.is_unicast_link_local()
            }
            None => false,
        };
        match run.verdict {
            Verdict::Pass => {
                let labelled = which == 1 && ethertype == 0x86dd;
                may_send
                    && run.has_mark(stamp(WIDE_ID) | run.kept())
                    && if labelled { run.is_labelled(WIDE_ID) } else { run.is_unchanged() }
            }
            Verdict::Drop => run.is_unchanged() && run.has_mark(run.mark),
            Verdict::Redirect => {
                which == 1
                    && ethertype == 0x0806
                    && run.source() == Some(OWN4.into())
                    && run.has_mark(run.mark)
                    && run.bytes.len() == run.bytes_after.len()
            }
        }
    });
    assert!(tally.passed > runs() / 10 && tally.dropped > runs() / 10, "{tally:?}");
    assert!(tally.redirected > runs() / 1000, "{tally:?}");
}

#[test]
fn half_a_million_random_frames_to_a_container() {
    let Some(fixture) = Fixture::new() else { return };
    let container = || quiet(fixture.container(WIDE_ID)).address(OWN4);
    let endpoints = [
        container().load(),
        container().feature(|on| on.trust_proxy = true).load(),
        container().untraced().load(),
        container().without_ethernet().load(),
    ];
    let tally = run_all(&endpoints, Hook::Egress, |_, run| {
        let mark = if is_ours(run.mark) { run.kept() } else { run.mark };
        run.verdict == Verdict::Pass && run.is_unchanged() && run.has_mark(mark)
    });
    assert_eq!((tally.passed, tally.stamped), (runs(), 0));
}

#[test]
fn half_a_million_random_frames_from_a_nic() {
    let Some(fixture) = Fixture::new() else { return };
    for (v4, v6, identity) in [(OWN4, OWN6, 300), (PEER4, PEER6, WIDE_ID), (BIG4, BIG6, BIG_ID)] {
        fixture.ipcache(&v4.to_string(), identity);
        fixture.ipcache(&v6.to_string(), identity);
    }
    let stamping = || quiet(fixture.netdev(1)).feature(|on| on.stamp_remote = true);
    let trusted = || stamping().feature(|on| on.trust_flow_label = "fd00:2::/32".parse().ok());
    let endpoints = [
        quiet(fixture.netdev(1)).load(),
        stamping().load(),
        trusted().untraced().load(),
        trusted().without_ethernet().load(),
    ];
    let tally = run_all(&endpoints, Hook::Ingress, |which, run| {
        let names_sender = [0x0a00, 0x0b00, 0x0c00, 0x0f00].contains(&(run.mark & 0x0f00));
        let mark = if names_sender { run.kept() } else { run.mark };
        let is_free = mark & !NOT_OURS == 0;
        let identity = match (run.source(), run.flow_label()) {
            (Some(IpAddr::V6(source)), label)
                if which >= 2 && label > 1 && source.segments()[..2] == [0xfd00, 2] =>
            {
                label
            }
            (Some(IpAddr::V6(PEER6) | IpAddr::V4(PEER4)), _) => WIDE_ID,
            (Some(IpAddr::V6(OWN6) | IpAddr::V4(OWN4)), _) => 300,
            (Some(IpAddr::V6(BIG6) | IpAddr::V4(BIG4)), _) => BIG_ID,
            _ => 2,
        };
        // What has no readable headers stays as it is, and which has is the program's to know.
        let may_stamp = which > 0 && is_free && identity != BIG_ID && run.source().is_some();
        let is_stamped = may_stamp && run.has_mark(stamp(identity) | run.kept());
        run.verdict == Verdict::Pass && run.is_unchanged() && (run.has_mark(mark) || is_stamped)
    });
    assert_eq!(tally.passed, runs());
    assert!(tally.stamped > runs() / 10, "{tally:?}");
}

#[test]
fn half_a_million_random_frames_to_a_nic() {
    let Some(fixture) = Fixture::new() else { return };
    let endpoints = [
        quiet(fixture.netdev(WIDE_ID)).load(),
        quiet(fixture.netdev(WIDE_ID)).feature(|on| on.trust_proxy = true).untraced().load(),
        quiet(fixture.netdev(1)).load(),
        quiet(fixture.netdev(WIDE_ID)).without_ethernet().load(),
    ];
    let tally = run_all(&endpoints, Hook::Egress, |which, run| {
        // In the name of a workload, but for the bits that name nobody.
        let is_proxys =
            which == 1 && matches!(run.mark & 0xf00, 0xa00 | 0xb00) && run.mark >> 16 != 0;
        let is_stamped = which != 2 && !run.forwarded && !is_proxys;
        let kept = if is_ours(run.mark) { 0 } else { run.kept() };
        let mark = if is_stamped { stamp(WIDE_ID) | kept } else { run.mark };
        run.verdict == Verdict::Pass && run.is_unchanged() && run.has_mark(mark)
    });
    assert_eq!(tally.passed, runs());
    assert!(tally.stamped > runs() / 10, "{tally:?}");
}
