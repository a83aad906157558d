//! The functions that a configuration never calls. The verifier removes them by itself, but only after
//! it has looked at whatever libbpf handed it: of an endpoint without a policy that was twice as many
//! instructions, and a fifth of the time that loading took.

use anyhow::{Context, Result};
use libbpf_rs::OpenProgramMut;
use libbpf_sys as bpf;

use super::abi::cm_config;
use super::sys;

/// Every call of the programs: program, function, which instruction of the program it is.
const CALLS: &[(&str, &str, usize)] = include!(concat!(env!("OUT_DIR"), "/calls.rs"));

/// A helper that no kernel has; libbpf's own number for what must not be reached. The verifier refuses
/// a program in which it could be.
const NO_HELPER: i32 = 0xbad_2310;

/// What programs with this configuration never call; what only these functions call goes with them.
pub(super) fn never_made(config: &cm_config) -> Vec<&'static str> {
    let never = [
        ("police_slowly", !config.has_policy()),
        ("explain_settled", config.explain == 0),
        ("drop_missed", config.local_delivery == 0),
    ];
    never.into_iter().filter(|(_, never)| *never).map(|(function, _)| function).collect()
}

/// Leaves these functions out of a program that is not loaded yet.
pub(super) fn leave_out(program: &mut OpenProgramMut<'_>, never: &[&str]) -> Result<()> {
    let name = program.name().to_string_lossy().into_owned();
    let made = CALLS.iter().filter(|(caller, ..)| *caller == name);
    let dead = made.filter(|(_, function, _)| never.contains(function));
    let poison = |instructions: &mut [bpf::bpf_insn]| {
        for (.., index) in dead {
            let call = &mut instructions[*index];
            assert_eq!(u32::from(call.src_reg()), bpf::BPF_PSEUDO_CALL, "{name}: {call:?}");
            call.set_src_reg(0);
            call.imm = NO_HELPER;
        }
    };
    sys::change_instructions(program, poison).with_context(|| format!("shorten {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_of_an_endpoint_without_anything_is_what_programs_call() {
        let never = never_made(&cm_config::default());
        assert_eq!(never.len(), 3);
        for function in never {
            assert!(CALLS.iter().any(|(_, called, _)| *called == function), "{function}");
        }
    }
}
