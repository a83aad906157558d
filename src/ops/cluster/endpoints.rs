//! What there is on this host to be published.
