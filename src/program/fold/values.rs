//! What registers are known to hold, and what comes of computing with it.

use crate::kernel::insn::*;

/// A map's value that is known before the program runs.
#[derive(Debug, Clone, Copy)]
pub struct Constants<'a> {
    /// How instructions name the map: its descriptor.
    pub map: i32,
    /// The value.
    pub bytes: &'a [u8],
}

/// What a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Anything.
    Unknown,
    /// A number.
    Number(u64),
    /// An address, so many bytes into the constants.
    Constants(u64),
}

pub use Value::Unknown;

/// The registers. One bit for each that is known, since most are not, most of the time.
#[derive(Debug, Clone, Copy)]
pub struct State {
    numbers: u16,
    constants: u16,
    /// 0 of what is not known.
    values: [u64; REGISTERS],
}

/// Of a function that is called with anything.
pub const NOTHING_KNOWN: State = State { numbers: 0, constants: 0, values: [0; REGISTERS] };

impl State {
    fn get(&self, register: u8) -> Value {
        let value = self.values[usize::from(register)];
        match (self.numbers >> register & 1, self.constants >> register & 1) {
            (1, _) => Value::Number(value),
            (_, 1) => Value::Constants(value),
            _ => Unknown,
        }
    }

    fn set(&mut self, register: u8, value: Value) {
        self.forget(1 << register);
        let (known, value) = match value {
            Value::Number(value) => (&mut self.numbers, value),
            Value::Constants(offset) => (&mut self.constants, offset),
            Unknown => return,
        };
        *known |= 1 << register;
        self.values[usize::from(register)] = value;
    }

    fn forget(&mut self, registers: u16) {
        let mut known = (self.numbers | self.constants) & registers;
        self.numbers &= !registers;
        self.constants &= !registers;
        while known != 0 {
            self.values[known.trailing_zeros() as usize] = 0;
            known &= known - 1;
        }
    }

    /// Leaves what is known where both may have led; whether that is less.
    pub fn meet(&mut self, other: &State) -> bool {
        let known = self.numbers | self.constants;
        let mut lost = (self.numbers & !other.numbers) | (self.constants & !other.constants);
        for (register, (value, others)) in self.values.iter().zip(&other.values).enumerate() {
            lost |= u16::from(value != others) << register;
        }
        self.forget(lost);
        lost & known != 0
    }
}

/// What the registers hold behind an instruction.
pub fn step(state: &mut State, insn: Insn, high: i32, constants: &Constants<'_>) {
    match insn.class() {
        LD | LDX | ALU | ALU64 => state.set(insn.dst, result(state, insn, high, constants)),
        // What an atomic operation fetches lies in one of these.
        STX if insn.code & MODE == ATOMIC => state.forget(1 | 1 << insn.dst | 1 << insn.src),
        JMP if insn.code == CALL => state.forget(insn.writes()),
        _ => {}
    }
}

/// What an instruction that only writes a register writes there.
pub fn result(state: &State, insn: Insn, high: i32, constants: &Constants<'_>) -> Value {
    match insn.class() {
        LD => immediate(insn, high, constants),
        LDX => load(state.get(insn.src), insn, constants),
        _ => arithmetic(state, insn),
    }
}

fn immediate(insn: Insn, high: i32, constants: &Constants<'_>) -> Value {
    match insn.src {
        0 => Value::Number(u64::from(high as u32) << 32 | u64::from(insn.imm as u32)),
        MAP_VALUE if insn.imm == constants.map => Value::Constants(u64::from(high as u32)),
        _ => Unknown,
    }
}

fn load(address: Value, insn: Insn, constants: &Constants<'_>) -> Value {
    let Value::Constants(offset) = address else { return Unknown };
    let size = match insn.code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    };
    let start = offset.wrapping_add_signed(insn.off.into());
    let end = start.checked_add(size);
    let bytes = usize::try_from(start).ok().zip(end.and_then(|end| usize::try_from(end).ok()));
    let Some(bytes) = bytes.and_then(|(start, end)| constants.bytes.get(start..end)) else {
        return Unknown;
    };
    Value::Number(match *bytes {
        [byte] => byte.into(),
        [a, b] => u16::from_ne_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]).into(),
        _ => u64::from_ne_bytes(bytes.try_into().expect("eight bytes")),
    })
}

fn operand(state: &State, insn: Insn) -> Value {
    match insn.by_register() {
        true => state.get(insn.src),
        false => Value::Number(i64::from(insn.imm) as u64),
    }
}

/// Exact, or unknown. An offset makes signed divisions and moves with a sign of what else are none.
fn arithmetic(state: &State, insn: Insn) -> Value {
    let wide = insn.class() == ALU64;
    let second = operand(state, insn);
    let first = state.get(insn.dst);
    match (insn.operation(), first, second) {
        _ if insn.off != 0 => Unknown,
        (END, Value::Number(value), _) if !wide => swap(insn, value),
        (END, ..) => Unknown,
        (NEG, Value::Number(value), _) => narrow(wide, value.wrapping_neg()),
        (NEG, ..) => Unknown,
        (MOV, _, Value::Number(value)) => narrow(wide, value),
        (MOV, _, Value::Constants(offset)) if wide => Value::Constants(offset),
        (0x00, Value::Constants(offset), Value::Number(value)) if wide => {
            Value::Constants(offset.wrapping_add(value))
        }
        (_, Value::Number(first), Value::Number(second)) => {
            let computed = match wide {
                true => compute64(insn.operation(), first, second),
                false => compute32(insn.operation(), first as u32, second as u32).map(u64::from),
            };
            computed.map_or(Unknown, Value::Number)
        }
        _ => Unknown,
    }
}

fn narrow(wide: bool, value: u64) -> Value {
    Value::Number(if wide { value } else { value & u64::from(u32::MAX) })
}

/// To the byte order that the instruction names, from that of this machine.
fn swap(insn: Insn, value: u64) -> Value {
    let big = insn.by_register();
    Value::Number(match insn.imm {
        16 if big => (value as u16).to_be().into(),
        32 if big => (value as u32).to_be().into(),
        64 if big => value.to_be(),
        16 => (value as u16).to_le().into(),
        32 => (value as u32).to_le().into(),
        64 => value.to_le(),
        _ => return Unknown,
    })
}

/// Nothing where the kernel has rules of its own: division by zero, shifts by too much.
macro_rules! compute {
    ($name:ident, $unsigned:ty, $signed:ty) => {
        fn $name(operation: u8, first: $unsigned, second: $unsigned) -> Option<$unsigned> {
            let shift = u32::try_from(second).ok().filter(|shift| *shift < <$unsigned>::BITS);
            match operation {
                0x00 => Some(first.wrapping_add(second)),
                0x10 => Some(first.wrapping_sub(second)),
                0x20 => Some(first.wrapping_mul(second)),
                0x30 => first.checked_div(second),
                0x40 => Some(first | second),
                0x50 => Some(first & second),
                0x60 => shift.map(|shift| first << shift),
                0x70 => shift.map(|shift| first >> shift),
                0x90 => first.checked_rem(second),
                0xa0 => Some(first ^ second),
                0xc0 => shift.map(|shift| ((first as $signed) >> shift) as $unsigned),
                _ => None,
            }
        }
    };
}

compute!(compute64, u64, i64);
compute!(compute32, u32, i32);

/// Whether a branch is taken, if that is known.
pub fn taken(state: &State, insn: Insn) -> Option<bool> {
    let (first, second) = (state.get(insn.dst), operand(state, insn));
    let (Value::Number(first), Value::Number(second)) = (first, second) else { return None };
    let (a, b) = match insn.class() {
        JMP => (first, second),
        _ => (first & u64::from(u32::MAX), second & u64::from(u32::MAX)),
    };
    let (signed_a, signed_b) = match insn.class() {
        JMP => (a as i64, b as i64),
        _ => (i64::from(a as i32), i64::from(b as i32)),
    };
    Some(match insn.operation() {
        0x10 => a == b,
        0x20 => a > b,
        0x30 => a >= b,
        0x40 => a & b != 0,
        0x50 => a != b,
        0x60 => signed_a > signed_b,
        0x70 => signed_a >= signed_b,
        0xa0 => a < b,
        0xb0 => a <= b,
        0xc0 => signed_a < signed_b,
        0xd0 => signed_a <= signed_b,
        _ => return None,
    })
}
