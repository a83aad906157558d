//! Each rule by hand, then random programs: what they do is the same before and after.

mod machine;
mod random;

use libbpf_sys::{bpf_func_info, bpf_line_info};

use super::*;
use crate::kernel::insn::*;

const MAP: i32 = 7;
/// As numbers of four bytes: 0, 5, -1, 0x0403_0201.
const BYTES: [u8; 16] = {
    let mut bytes = [0; 16];
    let words = [0u32, 5, u32::MAX, 0x0403_0201];
    let mut at = 0;
    while at < 16 {
        bytes[at] = words[at / 4].to_ne_bytes()[at % 4];
        at += 1;
    }
    bytes
};
const CONSTANTS: Constants<'static> = Constants { map: MAP, bytes: &BYTES };

const fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn { code, dst, src, off, imm }
}

const fn set(dst: u8, imm: i32) -> Insn {
    insn(MOV64_IMM, dst, 0, 0, imm)
}

const fn copy(dst: u8, src: u8) -> Insn {
    insn(MOV64_IMM | BY_REGISTER, dst, src, 0, 0)
}

/// Both slots of the address of the constants.
const fn address(dst: u8, offset: i32) -> [Insn; 2] {
    [insn(LD_IMM64, dst, MAP_VALUE, 0, MAP), insn(0, 0, 0, 0, offset)]
}

/// A load of four bytes.
const fn load(dst: u8, src: u8, off: i16) -> Insn {
    insn(LDX | MEM, dst, src, off, 0)
}

/// A helper, which may read registers 1 to 5.
const fn call(helper: i32) -> Insn {
    insn(CALL, 0, 0, 0, helper)
}

const fn call_function(distance: i32) -> Insn {
    insn(CALL, 0, LOCAL_CALL, 0, distance)
}

const fn goto(off: i16) -> Insn {
    insn(JA, 0, 0, off, 0)
}

/// 64 bits, against a number.
const fn branch(operation: u8, dst: u8, imm: i32, off: i16) -> Insn {
    insn(JMP | operation, dst, 0, off, imm)
}

const RETURN: Insn = insn(EXIT, 0, 0, 0, 0);
const EQUAL: u8 = 0x10;

fn code(instructions: impl AsRef<[Insn]>) -> Code {
    let main = bpf_func_info { insn_off: 0, type_id: 1 };
    Code { instructions: instructions.as_ref().to_vec(), functions: vec![main], lines: Vec::new() }
}

fn folded(instructions: impl AsRef<[Insn]>) -> Vec<Insn> {
    fold(&code(instructions), &CONSTANTS).expect("known instructions").instructions
}

/// Register 0 as `before` makes it of registers 1 and 2, which hold numbers.
fn computed(first: i32, second: i32, before: Insn) -> Vec<Insn> {
    folded([set(1, first), set(2, second), before, copy(0, 1), RETURN])
}

#[test]
fn a_load_of_a_constant_becomes_the_number() {
    let [high, low] = address(1, 4);
    assert_eq!(folded([high, low, load(0, 1, 0), RETURN]), [set(0, 5), RETURN]);
    let unsigned = insn(MOV32_IMM, 0, 0, 0, -1);
    assert_eq!(folded([high, low, load(0, 1, 4), RETURN]), [unsigned, RETURN]);
    let byte = insn(LDX | MEM | 0x10, 0, 1, 8, 0);
    let expected = BYTES[12].into();
    assert_eq!(folded([high, low, byte, RETURN]), [set(0, expected), RETURN]);
    let half = insn(LDX | MEM | 0x08, 0, 1, 4, 0);
    assert_eq!(folded([high, low, half, RETURN]), [set(0, 0xffff), RETURN]);
}

#[test]
fn a_long_number_takes_two_slots_and_what_jumps_over_it_goes_further() {
    let [high, low] = address(1, 8);
    let long = insn(LDX | MEM | 0x18, 0, 1, 0, 0);
    let before = [branch(EQUAL, 6, 0, 3), high, low, long, RETURN];
    let after = folded(before);
    let value = u64::from_ne_bytes(BYTES[8..].try_into().expect("eight"));
    assert_eq!(after[0], branch(EQUAL, 6, 0, 2));
    assert_eq!(after[1], insn(LD_IMM64, 0, 0, 0, value as u32 as i32));
    assert_eq!(after[2], insn(0, 0, 0, 0, (value >> 32) as i32));
    assert_eq!(after[3..], [RETURN]);
}

#[test]
fn an_address_is_followed_through_copies_and_additions_but_not_past_the_end() {
    let [high, low] = address(1, 0);
    let add = insn(ALU64, 2, 0, 0, 8);
    assert_eq!(folded([high, low, copy(2, 1), add, load(0, 2, -4), RETURN]), [set(0, 5), RETURN]);
    for off in [13, 16, -1] {
        let outside = [high, low, load(0, 1, off), RETURN];
        assert_eq!(folded(outside), outside);
    }
    let other = [insn(LD_IMM64, 1, MAP_VALUE, 0, MAP + 1), low, load(0, 1, 0), RETURN];
    assert_eq!(folded(other), other);
}

#[test]
fn arithmetic_of_32_bits_wraps_and_clears_the_upper_half() {
    let add = |class| insn(class, 1, 0, 0, 1);
    assert_eq!(computed(-1, 0, add(ALU)), [set(0, 0), RETURN]);
    assert_eq!(computed(-1, 0, add(ALU64)), [set(0, 0), RETURN]);
    assert_eq!(computed(-2, 0, add(ALU)), [insn(MOV32_IMM, 0, 0, 0, -1), RETURN]);
    assert_eq!(computed(-2, 0, add(ALU64)), [set(0, -1), RETURN]);
    let signed_shift = |class| insn(class | 0xc0, 1, 0, 0, 4);
    assert_eq!(computed(-16, 0, signed_shift(ALU64)), [set(0, -1), RETURN]);
    assert_eq!(computed(-16, 0, signed_shift(ALU)), [insn(MOV32_IMM, 0, 0, 0, -1), RETURN]);
}

#[test]
fn bytes_are_swapped_and_cut() {
    let big = |bits| insn(ALU | END | BY_REGISTER, 1, 0, 0, bits);
    let expected = i32::from(0x5678u16.to_be());
    assert_eq!(computed(0x1234_5678, 0, big(16)), [set(0, expected), RETURN]);
    let little = insn(ALU | END, 1, 0, 0, 16);
    let expected = i32::from(0x5678u16.to_le());
    assert_eq!(computed(0x1234_5678, 0, little), [set(0, expected), RETURN]);
}

#[test]
fn what_has_rules_of_its_own_stays() {
    let by_zero = insn(ALU64 | 0x30 | BY_REGISTER, 1, 2, 0, 0);
    let signed = insn(ALU64 | 0x30 | BY_REGISTER, 1, 2, 1, 0);
    let too_far = insn(ALU | 0x60 | BY_REGISTER, 1, 2, 0, 0);
    for (second, stays) in [(0, by_zero), (3, signed), (32, too_far)] {
        let before = [set(1, 9), set(2, second), stays, copy(0, 1), RETURN];
        assert_eq!(folded(before), before);
    }
}

/// Whether the branch is taken, which is known.
fn is_taken(first: i32, branch: Insn) -> bool {
    let branch = Insn { dst: 1, off: 2, ..branch };
    let after = folded([set(1, first), branch, set(0, 10), RETURN, set(0, 20), RETURN]);
    assert_eq!(after.len(), 2, "{after:?}");
    after[0].imm == 20
}

#[test]
fn branches_compare_signed_and_unsigned_in_64_bits_and_32() {
    for (operation, first, second, taken) in [
        (0x10, 5, 5, true),
        (0x20, -1, 1, true),
        (0x30, 1, 1, true),
        (0x40, 6, 1, false),
        (0x40, 6, 2, true),
        (0x50, 5, 5, false),
        (0x60, -1, 1, false),
        (0x60, 1, -1, true),
        (0x70, -1, -1, true),
        (0xa0, -1, 1, false),
        (0xb0, 1, 1, true),
        (0xc0, -1, 1, true),
        (0xd0, 2, 1, false),
    ] {
        for class in [JMP, JMP32] {
            let insn = insn(class | operation, 0, 0, 0, second);
            assert_eq!(is_taken(first, insn), taken, "{operation:#x} {first} {second} {class}");
        }
    }
}

#[test]
fn a_branch_on_32_bits_does_not_see_the_upper_half() {
    let [high, low] = [insn(LD_IMM64, 1, 0, 0, 5), insn(0, 0, 0, 0, 1)];
    let on = |class| {
        let branch = insn(class | EQUAL, 1, 0, 2, 5);
        folded([high, low, branch, set(0, 10), RETURN, set(0, 20), RETURN])[0].imm
    };
    assert_eq!((on(JMP32), on(JMP)), (20, 10));
}

#[test]
fn where_two_numbers_meet_nothing_is_known_and_one_number_stays() {
    let meet =
        |other| [branch(EQUAL, 6, 0, 2), set(1, 3), goto(1), set(1, other), copy(0, 1), RETURN];
    assert_eq!(folded(meet(4)), meet(4));
    assert_eq!(folded(meet(3)).last_chunk(), Some(&[set(0, 3), RETURN]));
}

#[test]
fn a_loop_changes_what_it_counts_and_not_what_it_uses() {
    let count = insn(ALU64, 1, 0, 0, 1);
    let before = [set(1, 0), set(7, 8), copy(6, 7), count, branch(0xa0, 1, 9, -3), call(1), RETURN];
    let mut after = before.to_vec();
    after.drain(1..3);
    after[2].off = -2;
    assert_eq!(folded(before), after, "register 1 is unknown in the loop, 6 and 7 are not read");
}

#[test]
fn a_call_leaves_nothing_known_in_the_registers_that_it_may_change() {
    for register in 0..6 {
        let before = [set(register, 1), call(1), copy(0, register), RETURN];
        let after = folded(before);
        assert!(after.ends_with(&before[1..]), "{register}: {after:?}");
    }
    let before = [set(6, 1), call(1), copy(0, 6), RETURN];
    assert_eq!(folded(before), [call(1), set(0, 1), RETURN]);
}

#[test]
fn nothing_is_known_where_a_function_begins() {
    for register in 1..10 {
        let add = insn(ALU64 | BY_REGISTER, 0, register, 0, 0);
        let mut code =
            code([set(register, 1), call_function(1), RETURN, copy(0, register), add, RETURN]);
        code.functions.push(bpf_func_info { insn_off: 3, type_id: 2 });
        let after = fold(&code, &CONSTANTS).expect("known instructions").instructions;
        assert!(after.ends_with(&[copy(0, register), add, RETURN]), "{register}: {after:?}");
    }
}

#[test]
fn the_stack_and_atomic_operations_are_not_known() {
    let store = insn(STX | MEM | 0x18, 10, 1, -8, 0);
    let fetch = insn(STX | ATOMIC | 0x18, 10, 1, -8, 0x01);
    let before = [set(1, 1), store, fetch, copy(0, 1), RETURN];
    assert_eq!(folded(before), before);
    let exchange = insn(STX | ATOMIC | 0x18, 10, 2, -8, 0xf1);
    let before = [set(0, 1), set(2, 1), store, exchange, RETURN];
    assert_eq!(folded(before), before);
}

#[test]
fn a_function_that_nothing_calls_any_more_goes_with_its_line() {
    let [high, low] = address(1, 0);
    let instructions = vec![
        high,
        low,
        load(1, 1, 0),
        branch(EQUAL, 1, 0, 1),
        call_function(3),
        call_function(4),
        set(0, 0),
        RETURN,
        set(0, 1),
        RETURN,
        set(0, 2),
        RETURN,
    ];
    let functions = [(0, 1), (8, 2), (10, 3)];
    let functions = functions.map(|(insn_off, type_id)| bpf_func_info { insn_off, type_id });
    let line =
        |insn_off| bpf_line_info { insn_off, line_col: insn_off << 10, ..Default::default() };
    let lines = [0, 2, 4, 5, 8, 10, 11].map(line);
    let code = Code { instructions, functions: functions.into(), lines: lines.into() };
    let after = fold(&code, &CONSTANTS).expect("known instructions");
    assert_eq!(
        after.instructions,
        [set(1, 0), call_function(2), set(0, 0), RETURN, set(0, 2), RETURN]
    );
    let functions: Vec<_> = after.functions.iter().map(|f| (f.insn_off, f.type_id)).collect();
    assert_eq!(functions, [(0, 1), (4, 3)]);
    let lines: Vec<_> = after.lines.iter().map(|l| (l.insn_off, l.line_col >> 10)).collect();
    assert_eq!(lines, [(0, 2), (1, 5), (4, 10), (5, 11)]);
}

#[test]
fn a_callback_stays_as_long_as_it_is_named() {
    let named = [insn(LD_IMM64, 2, FUNCTION, 0, 4), insn(0, 0, 0, 0, 0)];
    let mut code = code([named[0], named[1], call(1), set(0, 0), RETURN, set(0, 7), RETURN]);
    code.functions.push(bpf_func_info { insn_off: 5, type_id: 2 });
    let after = fold(&code, &CONSTANTS).expect("known instructions");
    assert_eq!(after.instructions, code.instructions);
    assert_eq!(after.functions.len(), 2);
}

#[test]
fn what_leads_to_a_removed_instruction_leads_to_the_next_one() {
    let dead = set(7, 1);
    let before = [branch(EQUAL, 6, 0, 1), call(1), dead, dead, set(0, 0), RETURN];
    assert_eq!(folded(before), [branch(EQUAL, 6, 0, 1), call(1), set(0, 0), RETURN]);
}

#[test]
fn what_is_unknown_here_is_left_to_the_kernel() {
    for insn in [
        insn(0xe5, 0, 0, 0, 0),
        insn(0x06, 0, 0, 0, 0),
        insn(0x20, 0, 0, 0, 0),
        insn(LDX | 0x80, 0, 1, 0, 0),
        insn(STX | ATOMIC | 0x18, 10, 1, -8, 0x100),
        insn(MOV64_IMM, 11, 0, 0, 0),
        goto(5),
        goto(-3),
    ] {
        assert!(fold(&code([insn, RETURN]), &CONSTANTS).is_none(), "{insn:?}");
    }
    assert!(fold(&code([set(0, 0)]), &CONSTANTS).is_none(), "no end");
}
