//! One packet through a private copy of an endpoint's programs, over the live maps, which tells what
//! it does and changes nothing.

use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::abi::{
    self, __sk_buff, bss, cm_config, cm_event, cm_event_type, cm_explanation, cm_reason, cm_step,
    u32_key,
};
use super::delivery;
use super::load::{self, Inherited, Loaded, Sizes};
use super::maps::{self, Endpoints};
use super::netns;
use super::pin::Root;
use super::registry::Endpoint;
use super::sys::{self, Hook, SharedValue};
use crate::model::endpoint::{EndpointId, Role};
use crate::model::policing::Mode;

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
    /// What the program was loaded with.
    pub config: cm_config,
    /// The same of whom the packet was delivered to past the stack, whose steps and event follow.
    pub destination: Option<cm_config>,
    /// The verdict.
    pub fate: Fate,
    /// The mark afterwards.
    pub mark: u32,
    /// What the program called, in the order in which it was done.
    pub steps: Vec<cm_step>,
    /// What the program would have reported; `None` for what is redirected.
    pub event: Option<cm_event>,
}

/// What a copy is made of.
#[derive(Debug)]
pub struct Original {
    /// Which programs.
    pub role: Role,
    /// What they were loaded with.
    pub config: cm_config,
    /// The maps that they found and others can't, and the confirmation that they wait for.
    pub inherited: Inherited,
}

impl Original {
    /// What is on a hook.
    pub fn of(endpoint: &Endpoint, hook: Hook) -> Result<Original> {
        ensure!(
            !endpoint.stale,
            "endpoint {id} ({}) is stale: its device is gone, or a program is not on its hook; `cilmark \
             detach id:{id}` cleans it, or attach the device again",
            endpoint.device,
            id = endpoint.id
        );
        let (config, confirm) = endpoint.running(hook)?;
        let role = endpoint.role().context("its configuration has no role")?;
        let inherited = Inherited { confirm, ..endpoint.inherited()? };
        Ok(Original { role, config, inherited })
    }
}

/// Runs the packet through a copy of what is on the hook.
pub fn explain(root: &Root, original: &Original, question: &Question<'_>) -> Result<Answer> {
    let mut config = original.config;
    config.explain = 1;
    if let Some(mode) = question.mode {
        config.policy = [mode.into(), mode.into()];
    }
    let loaded = load::load(root, original.role, &config, &Sizes::default(), &original.inherited)?;
    report_everything(&loaded)?;
    // Devices have their numbers and routes in one namespace only.
    let answer = netns::within(config.netns, || {
        let answer = run(&loaded, &config, question)?;
        // The copy's array of programs is empty: it names the destination, and is asked again.
        match load_destination(root, &loaded, &answer)? {
            Some((_loaded, destination)) => {
                Ok(Answer { destination: Some(destination), ..run(&loaded, &config, question)? })
            }
            None => Ok(answer),
        }
    })?;
    answer.with_context(|| format!("the network namespace of {} is gone", config.device_name()))
}

/// A copy of whom the packet is delivered to past the stack, for the copy that calls it. `None` if
/// nobody is called, or nobody is there.
fn load_destination(
    root: &Root,
    caller: &Loaded,
    answer: &Answer,
) -> Result<Option<(Loaded, cm_config)>> {
    let missed = |event: &&cm_event| event.reason == cm_reason::CM_DROP_MISSED_TAIL_CALL;
    let Some(event) = answer.event.as_ref().filter(missed) else { return Ok(None) };
    let address = event.destination.to_ip().context("a tail call for no address")?;
    let endpoint = Endpoints::open(root)?.context("no cm_endpoints")?.get(address)?;
    let id = endpoint.and_then(|endpoint| EndpointId::new(endpoint.endpoint_id));
    let Some(id) = id else { return Ok(None) };
    if delivery::called(root, id)?.is_none() {
        return Ok(None);
    }
    let mut original = Original::of(&Endpoint::read(root, id)?, Hook::Egress)?;
    original.config.explain = 1;
    let steps = own_map(caller, "cm_steps")?;
    let nothing = cm_explanation::default();
    steps.update(abi::bytes_of(&u32_key(0)), abi::bytes_of(&nothing), MapFlags::ANY)?;
    original.inherited.steps = Some(steps);
    let loaded =
        load::load(root, original.role, &original.config, &Sizes::default(), &original.inherited)?;
    report_everything(&loaded)?;
    let program = loaded.called().context("it takes no local delivery")?;
    let calls = caller.policy_calls.as_ref().context("it has no array of programs")?;
    let descriptor = program.as_raw_fd().to_ne_bytes();
    calls.update(abi::bytes_of(&u32_key(id.get().into())), &descriptor, MapFlags::ANY)?;
    Ok(Some((loaded, original.config)))
}

/// Switches reporting on, in the copy's own variables.
fn report_everything(loaded: &Loaded) -> Result<()> {
    let variables = SharedValue::of(&own_map(loaded, ".bss")?).context("map its .bss")?;
    variables.u64_at(offset_of!(bss, trace_until_ns)).store(u64::MAX, Ordering::Relaxed);
    Ok(())
}

fn run(loaded: &Loaded, config: &cm_config, question: &Question<'_>) -> Result<Answer> {
    let mut context = __sk_buff {
        mark: question.mark,
        ingress_ifindex: question.ingress_ifindex,
        ifindex: config.ifindex,
        ..__sk_buff::default()
    };
    let program = loaded.program(question.hook);
    let run = sys::test_run(program, question.packet, &mut context, 1).with_context(|| {
        format!(
            "run a packet of {} bytes; the kernel wants a whole IP header, and 14 bytes at least",
            question.packet.len()
        )
    })?;
    let key = u32_key(0);
    let told = own_map(loaded, "cm_steps")?.lookup(abi::bytes_of(&key), MapFlags::ANY)?;
    let told: cm_explanation = abi::from_bytes(&told.context("no explanation")?)?;
    let reported = told.event.r#type != cm_event_type(0);
    Ok(Answer {
        config: *config,
        destination: None,
        fate: fate(run.action)?,
        mark: context.mark,
        steps: told.steps.iter().take(told.count as usize).copied().collect(),
        event: reported.then_some(told.event),
    })
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

/// A map that nobody but the copy has.
fn own_map(loaded: &Loaded, suffix: &str) -> Result<MapHandle> {
    let map = maps::of_program(&loaded.map_ids()?, suffix)?;
    map.with_context(|| format!("the program has no {suffix}"))
}
