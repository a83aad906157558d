//! A machine that runs programs, without any help from what it tests.

use std::collections::HashMap;

use super::super::Code;
use super::{BYTES, MAP};
use crate::kernel::insn::*;

const CONSTANTS: u64 = 0x1000_0000;
const STACK: u64 = 0x2000_0000;
const FUNCTIONS: u64 = 0x3000_0000;
const STACK_SIZE: u64 = 512;
const DEEPEST: u64 = 8;

/// What a program has done: the calls of helpers with their arguments, and what it returned.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    calls: Vec<(i32, [u64; 5])>,
    returned: u64,
}

struct Machine<'a> {
    code: &'a Code,
    registers: [u64; 11],
    stack: HashMap<u64, u8>,
    /// Of who calls: where it goes on, and registers 6 to 9.
    callers: Vec<(usize, [u64; 4])>,
    calls: Vec<(i32, [u64; 5])>,
}

/// `None` for what takes too long or leaves its memory, as the kernel lets no program do.
pub fn run(code: &Code, input: [u64; 5], most: usize) -> Option<Outcome> {
    let mut registers = [0x99; 11];
    registers[1..6].copy_from_slice(&input);
    registers[10] = STACK + STACK_SIZE;
    let (stack, callers) = (HashMap::new(), Vec::new());
    let mut machine = Machine { code, registers, stack, callers, calls: Vec::new() };
    let mut slot = 0;
    for _ in 0..most {
        match machine.step(slot)? {
            Some(next) => slot = next,
            None => {
                let returned = machine.registers[0];
                return Some(Outcome { calls: machine.calls, returned });
            }
        }
    }
    None
}

impl Machine<'_> {
    /// The next slot; `Some(None)` at the end.
    fn step(&mut self, slot: usize) -> Option<Option<usize>> {
        let insn = *self.code.instructions.get(slot)?;
        let (dst, src) = (usize::from(insn.dst), usize::from(insn.src));
        match insn.code & 7 {
            0 => {
                self.registers[dst] = self.long(slot);
                return Some(Some(slot + 2));
            }
            1 => self.registers[dst] = self.read(self.at(src, insn), size(insn))?,
            2 => self.write(self.at(dst, insn), size(insn), insn.imm as i64 as u64)?,
            3 if insn.code & MODE == MEM => {
                self.write(self.at(dst, insn), size(insn), self.registers[src])?;
            }
            3 => self.atomic(insn)?,
            4 | 7 => self.registers[dst] = self.arithmetic(insn),
            _ => return self.jump(slot, insn),
        }
        Some(Some(slot + 1))
    }

    fn long(&self, slot: usize) -> u64 {
        let (low, high) = (self.code.instructions[slot], self.code.instructions[slot + 1]);
        match low.src {
            MAP_VALUE if low.imm == MAP => CONSTANTS + u64::from(high.imm as u32),
            FUNCTION => {
                let first = slot as i64 + 1 + i64::from(low.imm);
                let function = self.code.functions.iter().find(|f| i64::from(f.insn_off) == first);
                FUNCTIONS + u64::from(function.expect("a function").type_id)
            }
            _ => (u64::from(high.imm as u32) << 32) + u64::from(low.imm as u32),
        }
    }

    fn at(&self, register: usize, insn: Insn) -> u64 {
        self.registers[register].wrapping_add(insn.off as i64 as u64)
    }

    fn read(&self, at: u64, size: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        for (index, byte) in (0..size).zip(&mut bytes) {
            let at = at.checked_add(index)?;
            *byte = match at.checked_sub(CONSTANTS) {
                Some(offset) if offset < 16 => BYTES[offset as usize],
                _ => *self.stack.get(&at)?,
            };
        }
        Some(match size {
            1 => bytes[0].into(),
            2 => u16::from_ne_bytes([bytes[0], bytes[1]]).into(),
            4 => u32::from_ne_bytes(bytes[..4].try_into().expect("four")).into(),
            _ => u64::from_ne_bytes(bytes),
        })
    }

    fn write(&mut self, at: u64, size: u64, value: u64) -> Option<()> {
        let top = self.registers[10];
        if at < top - STACK_SIZE || at + size > top {
            return None;
        }
        let bytes = match size {
            1 => (value as u8).to_ne_bytes().to_vec(),
            2 => (value as u16).to_ne_bytes().to_vec(),
            4 => (value as u32).to_ne_bytes().to_vec(),
            _ => value.to_ne_bytes().to_vec(),
        };
        self.stack.extend((at..).zip(bytes));
        Some(())
    }

    /// Fetch and add, and compare and exchange.
    fn atomic(&mut self, insn: Insn) -> Option<()> {
        let (dst, src) = (usize::from(insn.dst), usize::from(insn.src));
        let (at, size) = (self.at(dst, insn), size(insn));
        let old = self.read(at, size)?;
        match insn.imm {
            0xf1 if old == self.registers[0] => self.write(at, size, self.registers[src])?,
            0xf1 => {}
            _ => self.write(at, size, old.wrapping_add(self.registers[src]))?,
        }
        match insn.imm {
            0xf1 => self.registers[0] = old,
            0x01 => self.registers[src] = old,
            _ => {}
        }
        Some(())
    }

    fn arithmetic(&self, insn: Insn) -> u64 {
        let first = self.registers[usize::from(insn.dst)];
        let second = match insn.code & 8 {
            0 => insn.imm as i64 as u64,
            _ => self.registers[usize::from(insn.src)],
        };
        let wide = insn.code & 7 == 7;
        if insn.code & 0xf0 == END {
            return swapped(insn, first);
        }
        let bits = if wide { 64 } else { 32 };
        let mask = if wide { u64::MAX } else { u32::MAX.into() };
        let (a, b) = (u128::from(first & mask), u128::from(second & mask));
        let shift = (b % bits) as u32;
        let result = match insn.code >> 4 {
            0x0 => a + b,
            0x1 => a.wrapping_sub(b),
            0x2 => a.wrapping_mul(b),
            0x3 => a.checked_div(b).unwrap_or(0),
            0x4 => a | b,
            0x5 => a & b,
            0x6 => a << shift,
            0x7 => a >> shift,
            0x8 => a.wrapping_neg(),
            0x9 => a.checked_rem(b).unwrap_or(a),
            0xa => a ^ b,
            0xb => b,
            _ if wide => (i128::from(a as i64) >> shift) as u128,
            _ => (i128::from(a as i32) >> shift) as u128,
        };
        result as u64 & mask
    }

    fn jump(&mut self, slot: usize, insn: Insn) -> Option<Option<usize>> {
        let to = |distance: i64| usize::try_from(slot as i64 + 1 + distance).ok();
        match (insn.code, insn.src) {
            (JA, _) => return to(insn.off.into()).map(Some),
            (EXIT, _) => {
                let Some((slot, saved)) = self.callers.pop() else { return Some(None) };
                self.registers[6..10].copy_from_slice(&saved);
                self.registers[10] -= STACK_SIZE;
                self.forget(1..6);
                return Some(Some(slot));
            }
            (CALL, LOCAL_CALL) => {
                if self.callers.len() as u64 == DEEPEST {
                    return None;
                }
                let saved = self.registers[6..10].try_into().expect("four");
                self.callers.push((slot + 1, saved));
                self.registers[10] += STACK_SIZE;
                self.forget(6..10);
                self.registers[0] = 0x55;
                return to(insn.imm.into()).map(Some);
            }
            (CALL, _) => {
                let arguments = self.registers[1..6].try_into().expect("five");
                self.calls.push((insn.imm, arguments));
                self.forget(0..6);
                return Some(Some(slot + 1));
            }
            _ => {}
        }
        let taken = self.compares(insn);
        to(if taken { insn.off.into() } else { 0 }).map(Some)
    }

    /// Something else each time.
    fn forget(&mut self, registers: std::ops::Range<usize>) {
        let count = self.calls.len() as u64;
        for register in registers {
            self.registers[register] = (count + 1) * 0x1_0001 + register as u64;
        }
    }

    fn compares(&self, insn: Insn) -> bool {
        let first = self.registers[usize::from(insn.dst)];
        let second = match insn.code & 8 {
            0 => insn.imm as i64 as u64,
            _ => self.registers[usize::from(insn.src)],
        };
        let (a, b, signed) = match insn.code & 7 {
            5 => (first, second, (first as i64).cmp(&(second as i64))),
            _ => (
                u64::from(first as u32),
                u64::from(second as u32),
                (first as i32).cmp(&(second as i32)),
            ),
        };
        match insn.code >> 4 {
            0x1 => a == b,
            0x2 => a > b,
            0x3 => a >= b,
            0x4 => a & b > 0,
            0x5 => a != b,
            0x6 => signed.is_gt(),
            0x7 => signed.is_ge(),
            0xa => a < b,
            0xb => a <= b,
            0xc => signed.is_lt(),
            _ => signed.is_le(),
        }
    }
}

fn size(insn: Insn) -> u64 {
    [4, 2, 1, 8][usize::from(insn.code >> 3 & 3)]
}

fn swapped(insn: Insn, value: u64) -> u64 {
    let size = (insn.imm / 8) as usize;
    let mut bytes = value.to_le_bytes()[..size].to_vec();
    let big = insn.code & 8 != 0;
    if big == cfg!(target_endian = "little") {
        bytes.reverse();
    }
    bytes.resize(8, 0);
    u64::from_le_bytes(bytes.try_into().expect("eight"))
}
