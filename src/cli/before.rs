//! Programs of others that run before cilmark's, as lines about a device.

use crate::kernel::hooks::HookKind;
use crate::kernel::order::Other;
use crate::ops::order;

/// A line for each hook that has some. The place is that of cilmark's own.
pub fn lines(device: &str, place: (HookKind, u32), others: &[Other]) -> Vec<String> {
    let line = |it: order::Before| {
        format!("{device}: {}; `attach {}` goes before {}", it.says, it.flags, it.them)
    };
    order::before(place, others).into_iter().map(line).collect()
}
