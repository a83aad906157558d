//! The process: one thread that runs the readers and the publisher, answers commands, and tells systemd, the state file and
//! Prometheus how it is.
