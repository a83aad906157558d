//! The real programs: each runs on one packet at a time (BPF_PROG_TEST_RUN), and says what became of
//! it.

use std::fmt;
use std::mem::offset_of;
use std::os::fd::BorrowedFd;

use cilmark::kernel::abi::{
    self, __sk_buff, bss, cm_config, cm_counters, cm_event, cm_event_type, u32_key,
};
use cilmark::kernel::sys::{self, Hook};
use cilmark::model::endpoint::{EndpointId, Role};
use cilmark::program::load::Loaded;
use cilmark::state::maps;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::fixture::Fixture;
use super::packet::Frame;

const ACTION_PASS: i32 = -1;
const ACTION_DROP: i32 = 2;
const ACTION_REDIRECT: i32 = 7;

/// An endpoint whose programs are in the kernel and on no hook.
pub struct Endpoint<'fixture> {
    pub fixture: &'fixture Fixture,
    pub id: EndpointId,
    pub config: cm_config,
    pub role: Role,
    /// Of the device that it is meant for.
    pub ifindex: u32,
    /// Whether its packets start with an Ethernet header.
    pub has_ethernet: bool,
    pub loaded: Loaded,
}

// Named after the programs.
#[allow(clippy::wrong_self_convention)]
impl Endpoint<'_> {
    /// The workload sends.
    pub fn from_container(&self, packet: impl Into<Packet>) -> Outcome {
        self.run(Role::Container, Hook::Ingress, packet.into())
    }

    /// The workload receives.
    pub fn to_container(&self, packet: impl Into<Packet>) -> Outcome {
        self.run(Role::Container, Hook::Egress, packet.into())
    }

    /// The NIC has received.
    pub fn from_netdev(&self, packet: impl Into<Packet>) -> Outcome {
        self.run(Role::Netdev, Hook::Ingress, packet.into())
    }

    /// The NIC sends.
    pub fn to_netdev(&self, packet: impl Into<Packet>) -> Outcome {
        self.run(Role::Netdev, Hook::Egress, packet.into())
    }

    /// One of its programs, by the hook that it is for.
    pub fn program(&self, hook: Hook) -> BorrowedFd<'_> {
        self.loaded.program(hook)
    }

    /// Instructions of a program in the kernel, after the verifier has pruned it.
    pub fn instructions(&self, hook: Hook) -> u32 {
        sys::program_facts(self.program(hook)).expect("program info").instructions
    }

    /// This endpoint's own counters, all CPUs together.
    pub fn counters(&self) -> cm_counters {
        let key = u32_key(0);
        let of_cpus = self.map("cm_counters").lookup_percpu(abi::bytes_of(&key), MapFlags::ANY);
        let mut sum = cm_counters::default();
        for bytes in of_cpus.expect("look up").expect("the counters") {
            let of_cpu: cm_counters = abi::from_bytes(&bytes).expect("counters");
            for direction in 0..2 {
                sum.forwarded[direction].packets += of_cpu.forwarded[direction].packets;
                sum.forwarded[direction].bytes += of_cpu.forwarded[direction].bytes;
                sum.dropped[direction].packets += of_cpu.dropped[direction].packets;
                sum.dropped[direction].bytes += of_cpu.dropped[direction].bytes;
            }
            sum.lost += of_cpu.lost;
        }
        sum
    }

    /// Reports what passes until a moment of CLOCK_MONOTONIC, in ns.
    pub fn trace_until(&self, until: u64) {
        self.set_variable(offset_of!(bss, trace_until_ns), until);
    }

    /// Writes one of the variables that its programs have.
    pub fn set_variable(&self, at: usize, to: u64) {
        let map = self.map(".bss");
        let key = u32_key(0);
        let key = abi::bytes_of(&key);
        let mut value = map.lookup(key, MapFlags::ANY).expect("look up").expect(".bss");
        value[at..at + 8].copy_from_slice(&to.to_ne_bytes());
        map.update(key, &value, MapFlags::ANY).expect("write .bss");
    }

    /// What one of its programs decides about a packet, without what it reports: for thousands of them.
    pub fn verdict(&self, hook: Hook, packet: impl Into<Packet>) -> Verdict {
        let mut packet = packet.into();
        packet.context.ifindex = self.ifindex;
        let run = sys::test_run(self.program(hook), &packet.bytes, &mut packet.context, 1);
        Verdict::from_action(run.unwrap_or_else(|error| panic!("run {packet:?}: {error}")).action)
    }

    /// Runs one of its programs many times on a packet, which stays the same.
    pub fn repeat(&self, hook: Hook, packet: impl Into<Packet>, times: u32) {
        let mut packet = packet.into();
        sys::test_run(self.program(hook), &packet.bytes, &mut packet.context, times)
            .unwrap_or_else(|error| panic!("run {packet:?}: {error}"));
    }

    fn map(&self, suffix: &str) -> MapHandle {
        let facts = sys::program_facts(self.program(Hook::Ingress)).expect("program info");
        let map = maps::of_program(&facts.map_ids, suffix).expect("open its maps");
        map.unwrap_or_else(|| panic!("no map {suffix}"))
    }

    fn run(&self, role: Role, hook: Hook, packet: Packet) -> Outcome {
        assert_eq!(role, self.role, "the endpoint has no such program");
        self.fixture.events();
        let mut context = packet.context;
        if context.ifindex == 0 {
            context.ifindex = self.ifindex;
        }
        let run = sys::test_run(self.program(hook), &packet.bytes, &mut context, 1)
            .unwrap_or_else(|error| panic!("run {packet:?}: {error}"));
        let is_verdict = |event: &cm_event| event.r#type == cm_event_type::CM_EVENT_POLICY_VERDICT;
        let (mut verdicts, mut events): (Vec<_>, Vec<_>) =
            self.fixture.events().into_iter().partition(is_verdict);
        assert!(events.len() <= 1, "one packet, several events: {events:?}");
        assert!(verdicts.len() <= 1, "one packet, several verdicts: {verdicts:?}");
        Outcome {
            verdict: Verdict::from_action(run.action),
            mark: context.mark,
            cb: context.cb,
            bytes: run.packet,
            event: events.pop(),
            policy_verdict: verdicts.pop(),
            packet,
        }
    }
}

/// A frame with what the stack knows about it.
#[derive(Clone)]
pub struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) context: __sk_buff,
}

impl From<Frame> for Packet {
    fn from(frame: Frame) -> Packet {
        Packet::from(frame.bytes())
    }
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Packet {
        Packet { bytes, context: __sk_buff::default() }
    }
}

impl Packet {
    /// The mark that it comes with.
    pub fn mark(mut self, mark: u32) -> Packet {
        self.context.mark = mark;
        self
    }

    /// As if it had come in by a device, to be forwarded; without it, this host sends it.
    pub fn forwarded(mut self) -> Packet {
        self.context.ingress_ifindex = 1;
        self
    }

    /// As if it had come in by the device of this number; 0: this host sends it.
    pub fn came_in_by(mut self, ifindex: u32) -> Packet {
        self.context.ingress_ifindex = ifindex;
        self
    }

    /// As if it were on this device instead of the endpoint's. What a device has received is for its
    /// MAC, or else the stack, and so the policy, leaves it to others.
    pub fn on(mut self, ifindex: u32) -> Packet {
        self.context.ifindex = ifindex;
        self
    }

    /// As if the stack had put it together from segments.
    pub fn of_segments(mut self) -> Packet {
        self.context.gso_size = 1000;
        self.context.gso_segs = 2;
        self
    }

    /// What programs before left in the control block.
    pub fn cb(mut self, cb: [u32; 5]) -> Packet {
        self.context.cb = cb;
        self
    }
}

impl Frame {
    /// The frame with a mark on it.
    pub fn mark(self, mark: u32) -> Packet {
        Packet::from(self).mark(mark)
    }

    /// The frame as one that came in by a device.
    pub fn forwarded(self) -> Packet {
        Packet::from(self).forwarded()
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = &self.context;
        write!(f, "mark {:#010x} ", context.mark)?;
        write!(f, "ingress_ifindex {} bytes {}", context.ingress_ifindex, hex(&self.bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a program decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Drop,
    Redirect,
}

impl Verdict {
    /// What a `TC_ACT_…` means.
    pub fn from_action(action: i32) -> Verdict {
        match action {
            ACTION_PASS => Verdict::Pass,
            ACTION_DROP => Verdict::Drop,
            ACTION_REDIRECT => Verdict::Redirect,
            _ => panic!("the program returned {action}"),
        }
    }
}

/// What became of a packet.
pub struct Outcome {
    pub verdict: Verdict,
    pub mark: u32,
    pub cb: [u32; 5],
    /// The frame afterwards.
    pub bytes: Vec<u8>,
    /// What was reported.
    pub event: Option<cm_event>,
    /// What the policy was reported to have decided, where it was asked.
    pub policy_verdict: Option<cm_event>,
    packet: Packet,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}, of the packet", self.verdict)?;
        writeln!(f, "  {:?}", self.packet)?;
        writeln!(f, "  mark {:#010x} cb {:?} bytes {}", self.mark, self.cb, hex(&self.bytes))?;
        write!(f, "  {:?} {:?}", self.event, self.policy_verdict)
    }
}

impl Outcome {
    /// It passes.
    #[track_caller]
    pub fn passes(&self) -> &Outcome {
        assert_eq!(self.verdict, Verdict::Pass, "{self:?}");
        self
    }

    /// It passes, byte for byte what it was.
    #[track_caller]
    pub fn passes_unchanged(&self) -> &Outcome {
        assert_eq!(self.bytes, self.packet.bytes, "{self:?}");
        self.passes()
    }

    /// It passes, and with this mark.
    #[track_caller]
    pub fn passes_with_mark(&self, mark: u32) -> &Outcome {
        self.passes().has_mark(mark)
    }

    /// It leaves with this mark.
    #[track_caller]
    pub fn has_mark(&self, mark: u32) -> &Outcome {
        assert_eq!(self.mark, mark, "expected {mark:#010x}: {self:?}");
        self
    }

    /// It is dropped, for this reason, and stays as it was.
    #[track_caller]
    pub fn is_dropped(&self, reason: u32) -> &Outcome {
        assert_eq!(self.verdict, Verdict::Drop, "{self:?}");
        let event = self.event();
        assert_eq!(event.reason.0, reason, "{self:?}");
        assert_eq!(event.r#type, abi::cm_event_type::CM_EVENT_DROP, "{self:?}");
        assert_eq!(self.bytes, self.packet.bytes, "{self:?}");
        self.has_mark(self.packet.context.mark)
    }

    /// It is reported to come from this identity.
    #[track_caller]
    pub fn comes_from(&self, identity: u32) -> &Outcome {
        assert_eq!(self.event().source_identity, identity, "{self:?}");
        self
    }

    /// It is reported to go to this identity.
    #[track_caller]
    pub fn goes_to(&self, identity: u32) -> &Outcome {
        assert_eq!(self.event().destination_identity, identity, "{self:?}");
        self
    }

    /// Its one event.
    #[track_caller]
    pub fn event(&self) -> &cm_event {
        self.event.as_ref().unwrap_or_else(|| panic!("no event: {self:?}"))
    }
}
