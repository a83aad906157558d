//! One packet through a private copy of an endpoint's programs, over the live maps, which tells what
//! it does and changes nothing.

use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::kernel::abi::{
    self, __sk_buff, bss, cm_call, cm_config, cm_confirm, cm_delivery, cm_event, cm_event_type,
    cm_explanation, cm_fallback, cm_step, u32_key,
};
use crate::kernel::netns;
use crate::kernel::sys::{self, Hook, SharedValue};
use crate::model::endpoint::Role;
use crate::model::enforcement::Mode;
use crate::program::load::{self, Loaded, Sizes};
use crate::state::delivery;
use crate::state::maps;
use crate::state::nics;
use crate::state::pin::Root;
use crate::state::registry::Endpoint;
use crate::state::registry::Inherited;

/// The packet and what the stack would know about it.
#[derive(Debug)]
pub struct Question<'a> {
    /// The hook that it comes to.
    pub hook: Hook,
    /// From the Ethernet header on, or from the IP header on a device without one.
    pub packet: &'a [u8],
    /// Its mark.
    pub mark: u32,
    /// The device that it came in by; 0 if this host sends it.
    pub ingress_ifindex: u32,
    /// Another mode than the endpoint's own, in both directions.
    pub mode: Option<Mode>,
}

/// What a program does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, to other programs on the hook and the stack.
    Forward,
    /// It ends here.
    Drop,
    /// It goes to another device.
    Redirect,
}

/// What became of the packet, and why.
#[derive(Debug)]
pub struct Answer {
    /// What ran: the program that was asked for; with local delivery the destination's that it called;
    /// and if that is a tap's, the same again, on its hook.
    pub parts: Vec<Part>,
    /// The verdict of the last one.
    pub fate: Fate,
    /// The mark afterwards.
    pub mark: u32,
    /// What the last one that reports would have reported; `None` where that is nothing.
    pub event: Option<cm_event>,
    packet: Vec<u8>,
}

/// What one program did.
#[derive(Debug)]
pub struct Part {
    /// What it was loaded with.
    pub config: cm_config,
    /// What it called, in the order in which it was done; `CM_CALL_TO_CONTAINER` first if it was called
    /// itself.
    pub steps: Vec<cm_step>,
}

/// A copy, with what it was loaded with.
struct Copied {
    loaded: Loaded,
    config: cm_config,
    ifindex: u32,
}

/// What a copy is made of.
#[derive(Debug)]
pub struct Original {
    /// Which programs.
    pub role: Role,
    /// What they were loaded with.
    pub config: cm_config,
    /// Where their device is, which may have moved since.
    pub netns: u64,
    /// Its number there.
    pub ifindex: u32,
    /// The maps that they found and others can't, and the confirmation that they wait for.
    pub inherited: Inherited,
}

impl Original {
    /// What is on a hook.
    pub fn of(endpoint: &Endpoint, hook: Hook) -> Result<Original> {
        endpoint.check_alive()?;
        Original::running(endpoint, hook)
    }

    /// The same of an endpoint of which the other program, or the device, may be gone.
    fn running(endpoint: &Endpoint, hook: Hook) -> Result<Original> {
        let (config, confirm) = endpoint.running(hook)?;
        let role = endpoint.role().context("its configuration has no role")?;
        let inherited = Inherited { confirm, ..endpoint.inherited()? };
        let (netns, ifindex) = (endpoint.netns, endpoint.ifindex);
        Ok(Original { role, config, netns, ifindex, inherited })
    }
}

/// Runs the packet through a copy of what is on the hook.
pub fn explain(root: &Root, mut original: Original, question: &Question<'_>) -> Result<Answer> {
    if let Some(mode) = question.mode {
        original.config.policy = [mode.into(), mode.into()];
        // What is asked for is not the mode that an unconfirmed one has gone back to.
        if original.inherited.confirm.fallback == cm_fallback::CM_FALLBACK_AUDIT {
            original.inherited.confirm = cm_confirm::default();
        }
    }
    let netns = original.netns;
    let copy = Copied::of(root, original)?;
    // Devices have their numbers and routes in one namespace only.
    let answer = netns::within(netns, || {
        let answer = copy.run(question)?;
        // The copy's array of programs is empty: it names the destination, and is asked again.
        let Some(destination) = copy.destination(root, &answer)? else { return Ok(answer) };
        let mut answer = copy.run(question)?;
        let called = |step: &cm_step| step.call == cm_call::CM_CALL_TO_CONTAINER;
        if let Some(at) = answer.parts[0].steps.iter().position(called) {
            let steps = answer.parts[0].steps.split_off(at);
            answer.parts.push(Part { config: destination.config, steps });
        }
        if answer.fate != Fate::Redirect
            || destination.config.delivery != cm_delivery::CM_DELIVERY_EGRESS
        {
            return Ok(answer);
        }
        copy.forget_steps()?;
        let on_its_hook = destination.run(&Question {
            hook: Hook::Egress,
            packet: &answer.packet,
            mark: answer.mark,
            ingress_ifindex: copy.ifindex,
            mode: None,
        })?;
        let parts = answer.parts.into_iter().chain(on_its_hook.parts).collect();
        Ok(Answer { parts, ..on_its_hook })
    })?;
    answer
        .with_context(|| format!("the network namespace of {} is gone", copy.config.device_name()))
}

impl Copied {
    /// Loads a copy that reports everything.
    fn of(root: &Root, mut original: Original) -> Result<Copied> {
        original.config.explain = 1;
        let Original { role, config, ifindex, inherited, .. } = original;
        let loaded = load::load(root, role, &config, &Sizes::default(), &inherited)?;
        let copy = Copied { loaded, config, ifindex };
        if config.nic_slot().is_some() {
            let to = copy.map(nics::NICS)?;
            nics::copy(inherited.nics.as_ref(), &to, &config, inherited.confirm)
                .context("copy what is known of NICs")?;
        }
        let variables = SharedValue::of(&copy.map(".bss")?).context("map its .bss")?;
        variables.u64_at(offset_of!(bss, trace_until_ns)).store(u64::MAX, Ordering::Relaxed);
        Ok(copy)
    }

    /// A copy of whom the packet is delivered to past the stack, for this copy to call. `None` if
    /// nobody is called, or nobody is there.
    fn destination(&self, root: &Root, answer: &Answer) -> Result<Option<Copied>> {
        let missed =
            answer.event.as_ref().map(|event| delivery::missed(root, event)).transpose()?;
        let Some(id) = missed.flatten() else { return Ok(None) };
        if delivery::callee(root, id)?.is_none() {
            return Ok(None);
        }
        let mut original = Original::running(&Endpoint::read(root, id)?, Hook::Egress)?;
        self.forget_steps()?;
        original.inherited.steps = Some(self.map("cm_steps")?);
        let copy = Copied::of(root, original)?;
        let program = copy.loaded.callee().context("it takes no local delivery")?;
        let calls = self.loaded.policy_calls.as_ref().context("it has no array of programs")?;
        let descriptor = program.as_raw_fd().to_ne_bytes();
        calls.update(abi::bytes_of(&u32_key(id.get().into())), &descriptor, MapFlags::ANY)?;
        Ok(Some(copy))
    }

    fn run(&self, question: &Question<'_>) -> Result<Answer> {
        let mut context = __sk_buff {
            mark: question.mark,
            ingress_ifindex: question.ingress_ifindex,
            ifindex: self.ifindex,
            ..__sk_buff::default()
        };
        let program = self.loaded.program(question.hook);
        let run = sys::test_run(program, question.packet, &mut context, 1).with_context(|| {
            format!(
                "run a packet of {} bytes; the kernel wants a whole IP header, and 14 bytes at least",
                question.packet.len()
            )
        })?;
        let value = self.map("cm_steps")?.lookup(abi::bytes_of(&u32_key(0)), MapFlags::ANY)?;
        let explanation: cm_explanation = abi::from_bytes(&value.context("no explanation")?)?;
        let reported = explanation.event.r#type != cm_event_type(0);
        let steps = explanation.steps.iter().take(explanation.count as usize).copied().collect();
        Ok(Answer {
            parts: vec![Part { config: self.config, steps }],
            fate: fate(run.action)?,
            mark: context.mark,
            event: reported.then_some(explanation.event),
            packet: run.packet,
        })
    }

    fn forget_steps(&self) -> Result<()> {
        let nothing = cm_explanation::default();
        let key = u32_key(0);
        let steps = self.map("cm_steps")?;
        Ok(steps.update(abi::bytes_of(&key), abi::bytes_of(&nothing), MapFlags::ANY)?)
    }

    /// A map that nobody but the copy has.
    fn map(&self, suffix: &str) -> Result<MapHandle> {
        let map = maps::of_program(&self.loaded.map_ids()?, suffix)?;
        map.with_context(|| format!("the program has no {suffix}"))
    }
}

fn fate(action: i32) -> Result<Fate> {
    // TC_ACT_UNSPEC, _SHOT, _REDIRECT of include/uapi/linux/pkt_cls.h.
    Ok(match action {
        -1 => Fate::Forward,
        2 => Fate::Drop,
        7 => Fate::Redirect,
        action => bail!("the program returned {action}"),
    })
}
