//! How long the ipcache and rules take to change, by the binary, whether every flow obeys at once, and what changes
//! cost flows that they have nothing to do with.

mod convergence;
mod flows;
mod ipcache;
mod rules;
mod unconcerned;

use anyhow::Result;
use cilmark::kernel::log;

use crate::endpoints::make_devices;
use crate::figures::{self, Figure};
use crate::samples::Samples;
use crate::world::private_root;

/// Measures, prints, and gives the figures.
pub fn measure() -> Result<Vec<Figure>> {
    log::forward_libbpf();
    let root = private_root()?;
    make_devices(2)?;
    let mut samples = Samples::default();
    convergence::measure(&root, &mut samples)?;
    unconcerned::measure(&root, &mut samples)?;
    rules::measure(&root, &mut samples)?;
    flows::measure(&root, &mut samples)?;
    ipcache::measure(&mut samples)?;
    let figures = samples.figures();
    figures::print(&figures)?;
    Ok(figures)
}
