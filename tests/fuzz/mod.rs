//! Frames that are made by structure, judged by a reference that is written from the documents alone:
//! nothing passes that it forbids, nothing drops that it allows. Folded programs are judged by those that
//! are not.
//!
//! `make fuzz SECONDS=600` runs it for longer. `CILMARK_FUZZ_SEED` repeats a round by the seed that its
//! finding names.

mod generate;
mod model;
mod real;
mod session;
mod single;
