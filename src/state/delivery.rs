//! Local delivery: the array of the endpoints' programs that other endpoints tail-call.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle};

use crate::kernel::abi::{bytes_of, cm_event, cm_reason, from_bytes, u32_key};
use crate::kernel::sys;
use crate::model::endpoint::EndpointId;
use crate::state::endpoints::Endpoints;
use crate::state::pin::{self, Root};

/// Its name, which is Cilium's.
pub(super) const POLICY_CALLS: &str = "cm_policy_call";

/// The program that is called for an endpoint; `None` if it takes no local delivery.
pub fn callee(root: &Root, id: EndpointId) -> Result<Option<OwnedFd>> {
    let Some(calls) = open(root)? else { return Ok(None) };
    let key = u32_key(id.get().into());
    let program = calls.lookup(bytes_of(&key), MapFlags::ANY);
    let Some(number) = program.with_context(|| format!("read {POLICY_CALLS}"))? else {
        return Ok(None);
    };
    let number: u32_key = from_bytes(&number)?;
    Ok(Some(sys::open_program(number.0).context("open the program that is called")?))
}

/// Makes this the program that is called for an endpoint, in one step; or none.
pub fn set_callee(root: &Root, id: EndpointId, program: Option<BorrowedFd<'_>>) -> Result<()> {
    let Some(calls) = open(root)? else { return Ok(()) };
    let key = u32_key(id.get().into());
    let result = match program {
        Some(program) => {
            let descriptor = program.as_fd().as_raw_fd().to_ne_bytes();
            calls.update(bytes_of(&key), &descriptor, MapFlags::ANY)
        }
        None => match calls.delete(bytes_of(&key)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        },
    };
    result.with_context(|| format!("change endpoint {id} in {POLICY_CALLS}"))
}

/// Whom a packet was for that met no program (140): the endpoint that has its destination, if there still is
/// one. The event tells of the sender, who called.
pub fn missed(root: &Root, event: &cm_event) -> Result<Option<EndpointId>> {
    if event.reason != cm_reason::CM_DROP_MISSED_TAIL_CALL {
        return Ok(None);
    }
    let address = event.destination.to_ip().context("a tail call for no address")?;
    let Some(endpoints) = Endpoints::open(root)? else { return Ok(None) };
    let endpoint = endpoints.get(address)?;
    Ok(endpoint.and_then(|endpoint| EndpointId::new(endpoint.endpoint_id)))
}

/// `None` if nothing was ever attached with local delivery.
fn open(root: &Root) -> Result<Option<MapHandle>> {
    pin::open_map(&root.map(POLICY_CALLS))
}
