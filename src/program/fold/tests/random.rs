//! Programs of three functions that compute, load, store, branch and call at random.

use std::collections::BTreeSet;

use libbpf_sys::{bpf_func_info, bpf_line_info};
use proptest::prelude::*;

use super::machine::run;
use super::*;

/// Steps that a program may take.
const MOST: usize = 2000;

/// An instruction, or two: a kind, two registers, a distance and a number.
type Seed = (u8, u8, u8, u8, u8, i32);

fn seeds() -> impl Strategy<Value = Vec<Seed>> {
    let number = prop_oneof![4 => -2..10i32, 1 => any::<i32>()];
    prop::collection::vec((0..34u8, any::<u8>(), 0..10u8, 0..10u8, any::<u8>(), number), 1..24)
}

/// The instructions of one; those of jumps hold the number of the seed where they go, or of the
/// function.
fn instructions(seed: Seed, seeds: usize) -> Vec<Insn> {
    let (kind, operation, dst, src, far, imm) = seed;
    let stack = -8 * i16::from(far % 8 + 1);
    let size = operation & 0x18;
    let to = i16::from(far) % (seeds as i16 + 1);
    match kind {
        0..3 => vec![set(dst, imm)],
        3 => vec![insn(LD_IMM64, dst, 0, 0, imm), insn(0, 0, 0, 0, i32::from(far) - 3)],
        4..7 => address(dst, i32::from(far) % 16).into(),
        7..10 => {
            let [high, low] = address(dst, i32::from(far) % 16);
            vec![high, low, insn(LDX | MEM | size, src, dst, i16::from(operation >> 6), 0)]
        }
        10 => vec![insn(LDX | MEM | size, dst, 10, stack, 0)],
        11 => vec![insn(STX | MEM | 0x18, 10, src, stack, 0)],
        12 => vec![insn(ST | MEM | size, 10, 0, stack, imm)],
        13 => {
            let atomic = [0x00, 0x01, 0xf1][usize::from(operation % 3)];
            vec![
                insn(STX | MEM | 0x18, 10, dst, stack, 0),
                insn(STX | ATOMIC | 0x18, 10, src, stack, atomic),
            ]
        }
        14..19 => vec![arithmetic(operation, dst, src, imm)],
        19..25 => vec![comparison(operation, dst, src, to, imm)],
        25 => vec![goto(to)],
        26..29 => vec![call(imm)],
        _ if operation % 3 == 0 => {
            vec![insn(LD_IMM64, dst, FUNCTION, 0, i32::from(far % 2) + 1), insn(0, 0, 0, 0, 0)]
        }
        _ => vec![call_function(i32::from(far % 2) + 1)],
    }
}

fn arithmetic(choice: u8, dst: u8, src: u8, imm: i32) -> Insn {
    let class = if choice & 1 == 0 { ALU } else { ALU64 };
    let operation = ((choice >> 1) % 14) << 4;
    let by_register = if choice & 0x80 == 0 { 0 } else { BY_REGISTER };
    match operation {
        NEG => insn(class | NEG, dst, 0, 0, 0),
        END => insn(ALU | END | by_register, dst, 0, 0, [16, 32, 64][usize::from(src % 3)]),
        0x60 | 0x70 | 0xc0 if by_register == 0 => insn(class | operation, dst, 0, 0, imm & 31),
        _ => insn(class | operation | by_register, dst, src, 0, imm),
    }
}

fn comparison(choice: u8, dst: u8, src: u8, to: i16, imm: i32) -> Insn {
    const OPERATIONS: [u8; 11] = [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0];
    let class = if choice & 1 == 0 { JMP } else { JMP32 };
    let operation = OPERATIONS[usize::from(choice >> 1) % 11];
    let by_register = if choice & 0x40 == 0 { 0 } else { BY_REGISTER };
    insn(class | operation | by_register, dst, src, to, imm)
}

fn is_local(insn: Insn) -> bool {
    matches!((insn.code, insn.src), (CALL, LOCAL_CALL) | (LD_IMM64, FUNCTION))
}

/// Gives jumps and calls their distances, and each function an end.
fn program(functions: &[Vec<Seed>]) -> Code {
    let mut code = Code::default();
    let mut firsts = Vec::new();
    for (number, seeds) in functions.iter().enumerate() {
        let first = code.instructions.len();
        firsts.push(first);
        let type_id = number as u32 + 1;
        code.functions.push(bpf_func_info { insn_off: first as u32, type_id });
        let mut starts = Vec::new();
        for seed in seeds {
            starts.push(code.instructions.len());
            code.instructions.extend(instructions(*seed, seeds.len()));
        }
        starts.push(code.instructions.len());
        code.instructions.push(RETURN);
        for slot in first..code.instructions.len() {
            let insn = &mut code.instructions[slot];
            let jumps = [JMP, JMP32].contains(&insn.class()) && ![CALL, EXIT].contains(&insn.code);
            if jumps {
                insn.off = (starts[insn.off as usize] as i64 - slot as i64 - 1) as i16;
            }
        }
    }
    for (slot, insn) in code.instructions.iter_mut().enumerate() {
        if is_local(*insn) {
            insn.imm = firsts[insn.imm as usize] as i32 - slot as i32 - 1;
        }
    }
    let second = |slot: &usize| *slot > 0 && code.instructions[slot - 1].code == LD_IMM64;
    let slots = (0..code.instructions.len()).filter(|slot| !second(slot));
    let line =
        |slot| bpf_line_info { insn_off: slot as u32, line_col: slot as u32, ..Default::default() };
    code.lines = slots.map(line).collect();
    code
}

/// What the kernel asks of a program before it walks it: everything can be reached, functions are those
/// that are called, each with its line, and none runs into the next.
fn check_shape(code: &Code) {
    let slots = &code.instructions;
    let mut called = BTreeSet::from([0]);
    let mut reached = BTreeSet::new();
    let mut pending = vec![0];
    while let Some(slot) = pending.pop() {
        if !reached.insert(slot) {
            continue;
        }
        let insn = slots[slot];
        let to = |distance: i64| usize::try_from(slot as i64 + 1 + distance).expect("a slot");
        let after = if insn.code == LD_IMM64 { slot + 2 } else { slot + 1 };
        let jumps = [JMP, JMP32].contains(&insn.class()) && ![CALL, EXIT].contains(&insn.code);
        if is_local(insn) {
            called.insert(to(insn.imm.into()));
            pending.push(to(insn.imm.into()));
        }
        if jumps {
            pending.push(to(insn.off.into()));
        }
        if ![JA, EXIT].contains(&insn.code) {
            pending.push(after);
        }
    }
    let second = |slot: &usize| *slot > 0 && slots[slot - 1].code == LD_IMM64;
    let all: BTreeSet<usize> = (0..slots.len()).filter(|slot| !second(slot)).collect();
    assert_eq!(reached, all);
    let functions: Vec<usize> = code.functions.iter().map(|f| f.insn_off as usize).collect();
    assert_eq!(functions, called.into_iter().collect::<Vec<_>>());
    for end in functions[1..].iter().copied().chain([slots.len()]) {
        assert!([JA, EXIT].contains(&slots[end - 1].code));
    }
    assert!(code.lines.is_sorted_by_key(|line| line.insn_off));
    let lines: BTreeSet<usize> = code.lines.iter().map(|line| line.insn_off as usize).collect();
    assert!(lines.is_subset(&all));
    assert!(functions.iter().all(|first| lines.contains(first)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn a_program_does_the_same_when_it_is_folded(
        functions in [seeds(), seeds(), seeds()],
        inputs in prop::collection::vec(any::<[u64; 5]>(), 4),
    ) {
        let before = program(&functions);
        let after = fold(&before, &CONSTANTS).expect("known instructions");
        check_shape(&after);
        for input in inputs.into_iter().chain([[0; 5], [5; 5]]) {
            if let Some(expected) = run(&before, input, MOST) {
                prop_assert_eq!(run(&after, input, MOST), Some(expected), "{:?}\n{:?}", before, after);
            }
        }
    }
}
