//! Another tool's program on the hooks that cilmark uses. It sees what the program before it did to
//! the mark, and whether it was reached at all.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;

use cilmark::kernel::sys::{self, Hook};
use libbpf_rs::{
    Link, MapCore, MapFlags, Object, ObjectBuilder, TC_EGRESS, TC_INGRESS, TcHookBuilder, Xdp,
    XdpFlags,
};

use super::bpf;

const FILTER_HANDLE: u32 = 1;
const LAST_PRIORITY: u32 = 0xffff;

/// A counting program; on its hook as long as this lives, or as a filter as long as the device.
pub struct ThirdParty {
    object: Object,
    _link: Option<OwnedFd>,
}

impl ThirdParty {
    /// Behind the programs that are on a hook of a device of this namespace, whatever the kernel has.
    pub fn behind(device: &str, hook: Hook) -> ThirdParty {
        match sys::has_tcx() {
            true => ThirdParty::on_tcx(device, hook),
            false => ThirdParty::on_clsact(device, hook, LAST_PRIORITY),
        }
    }

    /// Behind the programs that are on the TCX hook of a device of this namespace.
    pub fn on_tcx(device: &str, hook: Hook) -> ThirdParty {
        ThirdParty::at(device, hook, false)
    }

    /// Before the programs that are on the TCX hook of a device of this namespace.
    pub fn first_on_tcx(device: &str, hook: Hook) -> ThirdParty {
        ThirdParty::at(device, hook, true)
    }

    /// One that has a name of Cilium's, before the programs that are on the TCX hook.
    pub fn of_cilium(device: &str, hook: Hook) -> ThirdParty {
        ThirdParty::of_name("cil_from_netdev", device, hook, true)
    }

    fn at(device: &str, hook: Hook, first: bool) -> ThirdParty {
        ThirdParty::of_name("third_party", device, hook, first)
    }

    fn of_name(name: &str, device: &str, hook: Hook, first: bool) -> ThirdParty {
        let object = load();
        let program = object.progs().find(|program| program.name() == name).expect("the program");
        let link = sys::create_tcx_link(program.as_fd(), ifindex(device), hook, first)
            .expect("attach the third-party program");
        ThirdParty { object, _link: Some(link) }
    }

    /// A clsact filter of a priority; the qdisc is made if there is none.
    pub fn on_clsact(device: &str, hook: Hook, priority: u32) -> ThirdParty {
        let object = load();
        let program = object.progs().next().expect("one program");
        let mut builder = TcHookBuilder::new(program.as_fd());
        builder.ifindex(ifindex(device) as i32).handle(FILTER_HANDLE).priority(priority);
        let mut filter = builder.hook(match hook {
            Hook::Ingress => TC_INGRESS,
            Hook::Egress => TC_EGRESS,
        });
        filter.create().expect("create the clsact qdisc");
        filter.attach().expect("attach the third-party program");
        ThirdParty { object, _link: None }
    }

    /// Pins its program.
    pub fn pin(&self, path: &str) {
        let program = self.object.progs().next().expect("one program");
        sys::pin(program.as_fd(), Path::new(path)).expect("pin the third-party program");
    }

    /// How many packets with this mark it has seen.
    pub fn packets(&self, mark: u32) -> u64 {
        let marks = self.object.maps().find(|map| map.name() == "marks").expect("its map");
        let value = marks.lookup(&mark.to_ne_bytes(), MapFlags::ANY).expect("look up");
        value.map_or(0, |bytes| u64::from_ne_bytes(bytes.try_into().expect("eight bytes")))
    }

    /// All that it has seen, as marks and counts.
    pub fn marks(&self) -> Vec<(u32, u64)> {
        let marks = self.object.maps().find(|map| map.name() == "marks").expect("its map");
        let number = |bytes: Vec<u8>| u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
        marks.keys().map(number).map(|mark| (mark, self.packets(mark))).collect()
    }
}

/// An XDP program of `xdp.bpf.c` on a device of this namespace, as long as what is returned lives.
pub fn xdp(name: &str, device: &str) -> (Object, Link) {
    let object = xdp_programs();
    let program = object.progs_mut().find(|program| program.name() == name).expect("the program");
    let link = program.attach_xdp(ifindex(device) as i32).expect("attach the XDP program");
    (object, link)
}

/// The same without a link, until somebody takes it off.
pub fn xdp_without_a_link(name: &str, device: &str, flags: XdpFlags) {
    let object = xdp_programs();
    let program = object.progs().find(|program| program.name() == name).expect("the program");
    let attached = Xdp::new(program.as_fd()).attach(ifindex(device) as i32, flags);
    attached.expect("attach the XDP program");
}

fn xdp_programs() -> Object {
    static OBJECT: LazyLock<Vec<u8>> = LazyLock::new(|| bpf::compile("xdp"));
    let open = ObjectBuilder::default().open_memory(&OBJECT).expect("open the XDP programs");
    open.load().expect("load the XDP programs")
}

fn ifindex(device: &str) -> u32 {
    cilmark::kernel::device::by_name(device).expect("the third-party program's device").ifindex
}

fn load() -> Object {
    static OBJECT: LazyLock<Vec<u8>> = LazyLock::new(|| bpf::compile("third_party"));
    let open = ObjectBuilder::default().open_memory(&OBJECT).expect("open the third-party program");
    open.load().expect("load the third-party program")
}
