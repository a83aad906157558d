//! Many packets of one, each from or to another address, by a program around the one under test: a million
//! of them take half a second.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::LazyLock;

use cilmark::kernel::abi::__sk_buff;
use cilmark::kernel::sys::{self, Hook};
use libbpf_rs::{MapCore, MapFlags, MapHandle, ObjectBuilder};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::bpf;
use super::program::{Endpoint, Packet};

/// Which address of a packet the numbers are written into: behind its first byte in IPv4, behind its first
/// four in IPv6, the lowest byte first.
#[derive(Debug, Clone, Copy)]
pub enum End {
    Source,
    Destination,
}

/// Those that packets have in turn; one to one with `numbers` of many.bpf.c.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    pub first: u32,
    /// From one to the next.
    pub step: u32,
    /// Then they begin again.
    pub count: u32,
    /// Packets of one number in a row.
    pub each: u32,
}

impl Numbers {
    /// Those from this one on, each once.
    pub fn from(first: u32) -> Numbers {
        Numbers { first, step: 1, count: u32::MAX, each: 1 }
    }
}

/// A program, and a packet of which it gets one after another. May be sent to another thread.
pub struct Many {
    wrapper: OwnedFd,
    bytes: Vec<u8>,
    ifindex: u32,
    ingress_ifindex: u32,
    /// The kernel empties an array of programs when nobody holds it.
    _programs: MapHandle,
}

impl Endpoint<'_> {
    /// Makes ready to run one of its programs on many packets.
    pub fn many(&self, hook: Hook, packet: &Packet, end: End, numbers: Numbers) -> Many {
        static OBJECT: LazyLock<Vec<u8>> = LazyLock::new(|| bpf::compile("many"));
        let mut open = ObjectBuilder::default().open_memory(&OBJECT).expect("open many.bpf.o");
        let Numbers { first, step, count, each } = numbers;
        let words = [packet.address_at(end), first, step, count, each];
        for mut map in open.maps_mut() {
            if map.name().to_string_lossy().ends_with(".rodata") {
                let value = map.initial_value_mut().expect("its .rodata");
                value[..20].copy_from_slice(&words.map(u32::to_ne_bytes).concat());
            }
        }
        let object = open.load().expect("load many.bpf.o");
        let programs = object.maps().find(|map| map.name() == "programs").expect("its map");
        let descriptor = self.program(hook).as_raw_fd().to_ne_bytes();
        programs.update(&[0; 4], &descriptor, MapFlags::ANY).expect("the program to call");
        let wrapper = object.progs().next().expect("one program");
        Many {
            wrapper: wrapper.as_fd().try_clone_to_owned().expect("a descriptor"),
            bytes: packet.bytes.clone(),
            ifindex: self.ifindex,
            ingress_ifindex: packet.context.ingress_ifindex,
            _programs: MapHandle::try_from(&programs).expect("a handle"),
        }
    }
}

impl Many {
    /// Runs the program on the next packets.
    pub fn run(&self, times: u32) {
        let Many { ifindex, ingress_ifindex, .. } = *self;
        let mut context = __sk_buff { ifindex, ingress_ifindex, ..__sk_buff::default() };
        let run = sys::test_run(self.wrapper.as_fd(), &self.bytes, &mut context, times);
        let action = run.expect("run a program on many packets").action;
        assert!(action < 100, "the wrapper returned {action}");
    }
}

impl Packet {
    /// Where the bytes that numbers go into begin.
    fn address_at(&self, end: End) -> u32 {
        match (&self.bytes[12..14], end) {
            ([0x08, 0x00], End::Source) => 14 + 12 + 1,
            ([0x08, 0x00], End::Destination) => 14 + 16 + 1,
            ([0x86, 0xdd], End::Source) => 14 + 8 + 4,
            ([0x86, 0xdd], End::Destination) => 14 + 24 + 4,
            _ => panic!("not an IP packet without tags: {self:?}"),
        }
    }
}

/// Keeps the calling thread on one CPU, if there are so many, while this lives.
pub struct OnCpu(CpuSet);

impl OnCpu {
    pub fn number(cpu: usize) -> OnCpu {
        let usual = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this thread");
        let mut one = CpuSet::new();
        one.set(cpu).expect("a number of a CPU");
        let _ = sched_setaffinity(Pid::from_raw(0), &one);
        OnCpu(usual)
    }
}

impl Drop for OnCpu {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}
