//! Numbers that rules make of a packet's mark and its connection's mark.

use std::fmt;

/// 32 bits, of which some may be unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits {
    /// Zero where a bit is not known.
    pub value: u32,
    /// Which are known.
    pub known: u32,
}

/// How a rule comes to a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// It states it.
    Number(u32),
    /// `skb->mark`.
    Mark,
    /// The mark of the packet's connection.
    ConnMark,
    /// Of something else: an address, a random number, a socket.
    Unknown,
    /// Both.
    And(Box<Value>, Box<Value>),
    /// Either.
    Or(Box<Value>, Box<Value>),
    /// One of them.
    Xor(Box<Value>, Box<Value>),
    /// Shifted to the left by so many bits, to the right if there are fewer than none.
    Shift(Box<Value>, i32),
}

impl Bits {
    /// All are known.
    pub const fn all(value: u32) -> Bits {
        Bits { value, known: u32::MAX }
    }

    const NONE: Bits = Bits { value: 0, known: 0 };

    /// Some are known.
    pub const fn of(value: u32, known: u32) -> Bits {
        Bits { value: value & known, known }
    }

    /// The least and the greatest number that it may be.
    pub const fn range(self) -> (u32, u32) {
        (self.value, self.value | !self.known)
    }

    /// One or the other: known are the bits that both have.
    pub fn or(self, other: Bits) -> Bits {
        Bits::of(self.value, self.known & other.known & !(self.value ^ other.value))
    }

    /// The bits that are zero for certain.
    fn zeros(self) -> u32 {
        self.known & !self.value
    }

    fn shift(self, by: i32) -> Bits {
        let count = by.unsigned_abs();
        let shifted = |bits: u32| match by >= 0 {
            true => bits.checked_shl(count).unwrap_or(0),
            false => bits.checked_shr(count).unwrap_or(0),
        };
        // What comes in from the side is zero.
        Bits { value: shifted(self.value), known: shifted(self.known) | !shifted(u32::MAX) }
    }
}

impl Value {
    /// `(base & !mask) ^ value`, as xt_MARK and xt_CONNMARK set what they set.
    pub fn masked_set(base: Value, mask: u32, value: Value) -> Value {
        base.and(Value::Number(!mask)).xor(value)
    }

    /// Both.
    pub fn and(self, other: Value) -> Value {
        Value::And(Box::new(self), Box::new(other))
    }

    /// Either.
    pub fn or(self, other: Value) -> Value {
        Value::Or(Box::new(self), Box::new(other))
    }

    /// One of them.
    pub fn xor(self, other: Value) -> Value {
        Value::Xor(Box::new(self), Box::new(other))
    }

    /// What it is with these marks.
    pub fn of(&self, mark: Bits, connmark: Bits) -> Bits {
        let both = |a: &Value, b: &Value| (a.of(mark, connmark), b.of(mark, connmark));
        match self {
            Value::Number(number) => Bits::all(*number),
            Value::Mark => mark,
            Value::ConnMark => connmark,
            Value::Unknown => Bits::NONE,
            Value::And(a, b) => {
                let (a, b) = both(a, b);
                Bits::of(a.value & b.value, a.known & b.known | a.zeros() | b.zeros())
            }
            Value::Or(a, b) => {
                let (a, b) = both(a, b);
                Bits::of(a.value | b.value, a.known & b.known | a.value | b.value)
            }
            Value::Xor(a, b) => {
                let (a, b) = both(a, b);
                Bits::of(a.value ^ b.value, a.known & b.known)
            }
            Value::Shift(value, by) => value.of(mark, connmark).shift(*by),
        }
    }

    /// Whether the mark of the packet is in it.
    pub fn reads_mark(&self) -> bool {
        self.reads(&Value::Mark)
    }

    /// Whether the mark of the connection is in it.
    pub fn reads_connmark(&self) -> bool {
        self.reads(&Value::ConnMark)
    }

    fn reads(&self, what: &Value) -> bool {
        match self {
            Value::And(a, b) | Value::Or(a, b) | Value::Xor(a, b) => a.reads(what) || b.reads(what),
            Value::Shift(value, _) => value.reads(what),
            value => value == what,
        }
    }

    /// The bits that are others than those of `base` for some marks, if this is written over it.
    pub fn writes(&self, base: &Value) -> u32 {
        let ends = [0, u32::MAX].map(Bits::all);
        let pairs = ends.iter().flat_map(|mark| ends.iter().map(|connmark| (*mark, *connmark)));
        pairs.fold(0, |written, (mark, connmark)| {
            let (new, old) = (self.of(mark, connmark), base.of(mark, connmark));
            written | (new.value ^ old.value) & new.known | !new.known
        })
    }

    /// Which bits of the packet's mark a test of this looks at.
    pub fn looked_at(&self) -> u32 {
        (0..32)
            .map(|bit| 1 << bit)
            .filter(|bit| self.depends_on(*bit))
            .fold(0, |all, bit| all | bit)
    }

    fn depends_on(&self, bit: u32) -> bool {
        let with = |mark| self.of(Bits::all(mark), Bits::NONE);
        with(0) != with(bit) || with(u32::MAX) != with(!bit)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number:#x}"),
            Value::Mark => f.write_str("meta mark"),
            Value::ConnMark => f.write_str("ct mark"),
            Value::Unknown => f.write_str("…"),
            Value::And(a, b) => write!(f, "{a} & {b}"),
            Value::Or(a, b) => write!(f, "{a} | {b}"),
            Value::Xor(a, b) => write!(f, "{a} ^ {b}"),
            Value::Shift(value, by) if *by < 0 => write!(f, "{value} >> {}", by.unsigned_abs()),
            Value::Shift(value, by) => write!(f, "{value} << {by}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set_xmark(value: u32, mask: u32) -> Value {
        Value::masked_set(Value::Mark, mask, Value::Number(value))
    }

    #[test]
    fn a_set_with_a_mask_writes_the_bits_of_the_mask() {
        let tailscale = set_xmark(0x40000, 0xff0000);
        assert_eq!(tailscale.of(Bits::all(0x04d2_0f00), Bits::NONE), Bits::all(0x0404_0f00));
        assert_eq!(tailscale.writes(&Value::Mark), 0xff0000);
        assert_eq!(set_xmark(0x4000, 0x4000).writes(&Value::Mark), 0x4000);
        assert_eq!(Value::Number(1).writes(&Value::Mark), u32::MAX);
        assert_eq!(Value::Mark.writes(&Value::Mark), 0);
    }

    #[test]
    fn bits_that_nobody_knows_spoil_no_others() {
        let set = Value::Mark
            .and(Value::Number(0xffff_00ff))
            .or(Value::Unknown.and(Value::Number(0xff00)));
        assert_eq!(
            set.of(Bits::all(0x1234_5678), Bits::NONE),
            Bits { value: 0x1234_0078, known: 0xffff_00ff }
        );
        assert_eq!(set.writes(&Value::Mark), 0xff00);
        assert_eq!(Value::Unknown.and(Value::Number(0)).of(Bits::NONE, Bits::NONE), Bits::all(0));
    }

    #[test]
    fn a_test_looks_at_the_bits_of_its_mask() {
        assert_eq!(Value::Mark.and(Value::Number(0xff0000)).looked_at(), 0xff0000);
        assert_eq!(Value::Mark.looked_at(), u32::MAX);
        assert_eq!(Value::Shift(Box::new(Value::Mark), -16).looked_at(), 0xffff_0000);
        assert_eq!(Value::ConnMark.looked_at(), 0);
    }

    proptest! {
        #[test]
        fn what_is_known_is_what_any_numbers_in_the_place_of_the_unknown_come_to(
            mark: u32, mask: u32, other: u32, by in -33i32..33,
        ) {
            let with = |unknown: Value| {
                let sum = Value::Mark.and(Value::Number(mask)).or(unknown.clone().and(Value::Number(!mask)));
                Value::Shift(Box::new(sum.xor(unknown)), by)
            };
            let known = with(Value::Unknown).of(Bits::all(mark), Bits::NONE);
            let exact = with(Value::Number(other)).of(Bits::all(mark), Bits::NONE);
            prop_assert_eq!(exact.known, u32::MAX);
            prop_assert_eq!(exact.value & known.known, known.value);
        }
    }
}
