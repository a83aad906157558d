//! The client.

mod keys;
