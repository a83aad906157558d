//! What the user is asked about, of what an attachment would do.

use anyhow::Result;
use log::{debug, warn};

use crate::cli::prompt::Prompt;
use crate::ops::attach::{Consent, Outlook};
use crate::output;

/// Asks, unless `--yes` or `--confirm` has answered: before the lock is taken, since people take their time.
/// Nobody is asked whether what is kept may go on as it is.
pub fn ask(prompt: &Prompt, keep: bool, outlook: Outlook) -> Result<Consent> {
    let Outlook { device, role, .. } = &outlook;
    outlook.notes.iter().for_each(|note| output::note(note));
    outlook.warnings.iter().for_each(|warning| warn!("{warning}"));
    if outlook.looks_like_a_nic {
        prompt.obtain_openly(&format!(
            "a default route leaves by {device}, so that it looks like a NIC of this host; as a {role}, \
             whatever comes by it would count as sent by one workload"
        ))?;
    }
    let taken = outlook.taken.join("; ");
    if keep && outlook.is_as_before {
        debug!("{device} goes on as before");
    } else if outlook.enforces {
        let also = if taken.is_empty() { taken } else { format!(" ({taken})") };
        let risk = match outlook.enforced {
            true => format!("{device} enforces already, and this attaches it again{also}"),
            false => {
                format!("{device} is going to drop what no rule and no failsafe port allows{also}")
            }
        };
        prompt.obtain(&risk, device)?;
    } else if !taken.is_empty() {
        let risk =
            format!("{device} enforces its policy for this host, and would be relaxed: {taken}");
        prompt.obtain_openly(&risk)?;
    }
    Ok(if prompt.has_answered() { Consent::Everything } else { Consent::To(outlook) })
}
