//! Makes a host have what files ask for: looks what there is, tells what differs, and changes just that.
//!
//! What others have made stays: a command, a runtime's hook, a cluster. What the files have made and no longer ask for goes
//! if that is wanted.

mod boot;
mod carry_out;
mod change;
pub mod files;
mod go_back;
mod now;
mod plan;

pub use boot::close_nics;
pub use carry_out::carry_out;
pub use change::{Change, Effect, EndpointState, Line, Sign};
pub use go_back::{go_back_at, slack};
pub use now::{Attached, Now};
pub use plan::{Plan, Request, asked_of, devices, is_called, plan};
