//! A program between taking it apart and putting it together again: instructions know their targets,
//! not distances, so that any of them may go.

use libbpf_sys::{bpf_func_info, bpf_line_info};

use crate::kernel::insn::*;

/// Of `line_col`; the rest is the line (BPF_LINE_INFO_LINE_COL of include/uapi/linux/bpf.h).
const COLUMN_BITS: u32 = 10;

/// Instead of an instruction: where the second slot of one is.
const NOWHERE: u32 = u32::MAX;

/// An instruction of one slot or of two.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    pub insn: Insn,
    /// Of [`LD_IMM64`]: `imm` of the second slot.
    pub high: i32,
    pub flow: Flow,
    /// Where a jump goes, and which function it is.
    target: u32,
    /// The slot where it was.
    slot: u32,
}

/// A function by the first of its instructions, and its type in BTF.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    pub first: usize,
    pub type_id: u32,
}

/// What a program is made of.
#[derive(Debug)]
pub struct Parts {
    pub ops: Vec<Op>,
    pub functions: Vec<Function>,
}

impl Op {
    /// To the next instruction.
    pub fn jump_to(&self, target: usize) -> Op {
        let insn = Insn { code: JA, ..Insn::default() };
        Op { insn, high: 0, flow: Flow::Jump, target: target as u32, ..*self }
    }

    pub fn target(&self) -> usize {
        self.target as usize
    }

    /// Writes a number into a register, in one slot if it fits.
    pub fn constant(&self, value: u64) -> Op {
        let dst = self.insn.dst;
        let (code, high) = match value {
            _ if i32::try_from(value as i64).is_ok() => (MOV64_IMM, 0),
            _ if u32::try_from(value).is_ok() => (MOV32_IMM, 0),
            _ => (LD_IMM64, (value >> 32) as i32),
        };
        let insn = Insn { code, dst, imm: value as i32, ..Insn::default() };
        Op { insn, high, flow: Flow::Next, ..*self }
    }

    pub fn slots(&self) -> usize {
        if self.insn.code == LD_IMM64 { 2 } else { 1 }
    }

    /// Whether the next instruction may come behind it.
    pub fn falls_through(&self) -> bool {
        !matches!(self.flow, Flow::Jump | Flow::Exit)
    }

    fn has_target(&self) -> bool {
        !matches!(self.flow, Flow::Next | Flow::Exit)
    }
}

impl Parts {
    /// Takes a program apart; `None` if there is anything in it that this module does not know.
    pub fn of(code: &Code) -> Option<Parts> {
        let slots = &code.instructions;
        let mut ops: Vec<Op> = Vec::with_capacity(slots.len());
        let mut at_slot = vec![NOWHERE; slots.len()];
        let mut slot = 0;
        while slot < slots.len() {
            at_slot[slot] = ops.len() as u32;
            let insn = slots[slot];
            let mut op = Op { insn, high: 0, flow: insn.flow()?, target: 0, slot: slot as u32 };
            if op.slots() == 2 {
                op.high = slots.get(slot + 1).filter(|second| second.code == 0)?.imm;
            }
            slot += op.slots();
            ops.push(op);
        }
        let index = |slot: usize| at_slot.get(slot).copied().filter(|index| *index != NOWHERE);
        for op in ops.iter_mut().filter(|op| op.has_target()) {
            let distance = match op.flow {
                Flow::Jump | Flow::Branch => i64::from(op.insn.off),
                _ => i64::from(op.insn.imm),
            };
            let target = usize::try_from(op.slot as i64 + 1 + distance).ok()?;
            op.target = index(target)?;
        }
        let function = |info: &bpf_func_info| {
            Some(Function { first: index(info.insn_off as usize)? as usize, type_id: info.type_id })
        };
        let functions = code.functions.iter().map(function).collect::<Option<_>>()?;
        let ends = ops.last().is_some_and(|last| !last.falls_through());
        ends.then_some(Parts { ops, functions })
    }

    /// Leaves these instructions only. Who went to one that is gone goes to the next that is left.
    pub fn keep(&mut self, kept: &[bool]) {
        let mut count = 0;
        let new: Vec<u32> = kept
            .iter()
            .map(|kept| {
                let index = count;
                count += u32::from(*kept);
                index
            })
            .collect();
        let mut kept = kept.iter();
        self.ops.retain(|_| kept.next() == Some(&true));
        for op in self.ops.iter_mut().filter(|op| op.has_target()) {
            op.target = new[op.target()];
        }
        for function in &mut self.functions {
            function.first = new[function.first] as usize;
        }
    }

    /// Puts the program together; `None` if a jump has become too long, which it can't.
    pub fn join(&self, lines: &[bpf_line_info]) -> Option<Code> {
        let mut slot_of = Vec::with_capacity(self.ops.len());
        let mut slots = 0;
        for op in &self.ops {
            slot_of.push(slots);
            slots += op.slots();
        }
        let mut instructions = Vec::with_capacity(slots);
        for (op, slot) in self.ops.iter().zip(&slot_of) {
            let mut insn = op.insn;
            if op.has_target() {
                let distance = slot_of[op.target()] as i64 - *slot as i64 - 1;
                match op.flow {
                    Flow::Jump | Flow::Branch => insn.off = distance.try_into().ok()?,
                    _ => insn.imm = distance.try_into().ok()?,
                }
            }
            instructions.push(insn);
            if op.slots() == 2 {
                instructions.push(Insn { imm: op.high, ..Insn::default() });
            }
        }
        let functions = self.functions.iter().map(|function| bpf_func_info {
            insn_off: slot_of[function.first] as u32,
            type_id: function.type_id,
        });
        let functions = functions.collect();
        Some(Code { instructions, functions, lines: self.lines(lines, &slot_of) })
    }

    /// Which line of the source an instruction comes from, where that changes; and at the beginning of
    /// each function, where the kernel wants it (`check_btf_line` in kernel/bpf/verifier.c).
    fn lines(&self, lines: &[bpf_line_info], slot_of: &[usize]) -> Vec<bpf_line_info> {
        let mut kept: Vec<bpf_line_info> = Vec::new();
        let mut functions = self.functions.iter().peekable();
        let mut next = 0;
        for (index, op) in self.ops.iter().enumerate() {
            while lines.get(next).is_some_and(|line| line.insn_off <= op.slot) {
                next += 1;
            }
            let first = functions.next_if(|function| function.first == index).is_some();
            let Some(line) = next.checked_sub(1).map(|before| lines[before]) else { continue };
            let place = |line: &bpf_line_info| (line.file_name_off, line.line_col >> COLUMN_BITS);
            let same = |last: &bpf_line_info| place(last) == place(&line);
            if first || !kept.last().is_some_and(same) {
                kept.push(bpf_line_info { insn_off: slot_of[index] as u32, ..line });
            }
        }
        kept
    }
}
