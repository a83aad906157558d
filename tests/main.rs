//! One test binary. `common` builds worlds and packets; the others are the tiers, lowest first:
//! `programs` runs the real programs on single packets (PROG_TEST_RUN), `cli` the command, and
//! `e2e` sends real packets between network namespaces, as `attacks` does with forged ones.
//! `vectors` replays what Cilium did. `fuzz` makes frames, for single programs and for real devices, and
//! judges by a model of what is documented. `runtimes` starts workloads by real container engines. `cluster` has hosts that
//! share identities and addresses through real etcds, which fail. `doctor` sets up what it finds, `recipes` pastes the
//! pages of docs/recipes.

mod attacks;
mod cli;
mod cluster;
mod common;
mod doctor;
mod e2e;
mod fuzz;
mod programs;
mod recipes;
mod runtimes;
mod vectors;
