//! Numbers that nobody uses any more, where no Cilium operator collects them.
