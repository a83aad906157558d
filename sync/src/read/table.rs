//! Who claims which address: without I/O.
