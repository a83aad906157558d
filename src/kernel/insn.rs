//! A program's instructions, and what they read, write and lead to.

use libbpf_sys::{bpf_func_info, bpf_line_info};

/// A program with all that it calls, as the kernel takes it.
#[derive(Debug, Clone, Default)]
pub struct Code {
    /// The instructions, in slots.
    pub instructions: Vec<Insn>,
    /// In which slot a function begins, and its type; the program itself is the first.
    pub functions: Vec<bpf_func_info>,
    /// From which slot on instructions come from a line of the source.
    pub lines: Vec<bpf_line_info>,
}

/// `struct bpf_insn`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Insn {
    /// Class, operation, and where the second operand or the address comes from.
    pub code: u8,
    /// The register that most of them write.
    pub dst: u8,
    /// The second register, or which kind of address or call it is.
    pub src: u8,
    /// Of an address, or to where a jump goes, in instructions.
    pub off: i16,
    /// The second operand, or what is called.
    pub imm: i32,
}

// include/uapi/linux/bpf_common.h and bpf.h: the lowest three bits are the class.
pub const LD: u8 = 0x00;
pub const LDX: u8 = 0x01;
pub const ST: u8 = 0x02;
pub const STX: u8 = 0x03;
pub const ALU: u8 = 0x04;
pub const JMP: u8 = 0x05;
pub const JMP32: u8 = 0x06;
pub const ALU64: u8 = 0x07;

pub const MODE: u8 = 0xe0;
pub const MEM: u8 = 0x60;
pub const ATOMIC: u8 = 0xc0;

/// The second operand is the register `src`, not `imm`.
pub const BY_REGISTER: u8 = 0x08;

pub const MOV: u8 = 0xb0;
pub const NEG: u8 = 0x80;
pub const END: u8 = 0xd0;

pub const LD_IMM64: u8 = 0x18;
pub const JA: u8 = 0x05;
pub const CALL: u8 = 0x85;
pub const EXIT: u8 = 0x95;
pub const MOV64_IMM: u8 = ALU64 | MOV;
pub const MOV32_IMM: u8 = ALU | MOV;

/// `src` of [`LD_IMM64`]: an address in a map's value, and that of a function.
pub const MAP_VALUE: u8 = 2;
pub const FUNCTION: u8 = 4;
/// `src` of [`CALL`]: a function of this program.
pub const LOCAL_CALL: u8 = 1;

pub const REGISTERS: usize = 11;

/// Registers as bits: those that a call may read are 1 to 5, and it leaves nothing in 0 to 5.
const ARGUMENTS: u16 = 0b11_1110;
const CALLER_SAVED: u16 = 0b11_1111;

/// How a program goes on behind an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// With the next one.
    Next,
    /// With the next one, behind a function of this program.
    Call,
    /// With the next one, knowing where a function of this program is.
    Function,
    /// At the target.
    Jump,
    /// At the target or with the next one.
    Branch,
    /// Not at all.
    Exit,
}

impl Insn {
    pub fn class(self) -> u8 {
        self.code & 0x07
    }

    /// Of arithmetic and jumps.
    pub fn operation(self) -> u8 {
        self.code & 0xf0
    }

    pub fn by_register(self) -> bool {
        self.code & BY_REGISTER != 0
    }

    /// `None` for what this module does not know, among it what clang does not make for `-mcpu=v3`:
    /// packet loads of old, jumps of 32 bits, `may_goto`, acquiring and releasing.
    pub fn flow(self) -> Option<Flow> {
        if usize::from(self.dst) >= REGISTERS || usize::from(self.src) >= REGISTERS {
            return None;
        }
        match self.class() {
            LD => match (self.code, self.src) {
                (LD_IMM64, FUNCTION) => Some(Flow::Function),
                (LD_IMM64, _) => Some(Flow::Next),
                _ => None,
            },
            LDX | ST => (self.code & MODE == MEM).then_some(Flow::Next),
            STX => {
                let known = [MEM, ATOMIC].contains(&(self.code & MODE)) && self.imm < 0x100;
                known.then_some(Flow::Next)
            }
            ALU | ALU64 => (self.operation() <= END).then_some(Flow::Next),
            class => self.jump(class),
        }
    }

    fn jump(self, class: u8) -> Option<Flow> {
        match (self.code, self.operation()) {
            (JA, _) => Some(Flow::Jump),
            (CALL, _) if self.src == LOCAL_CALL => Some(Flow::Call),
            (CALL, _) => Some(Flow::Next),
            (EXIT, _) => Some(Flow::Exit),
            (_, 0x00 | 0x80 | 0x90 | 0xe0 | 0xf0) => None,
            _ => (class == JMP || class == JMP32).then_some(Flow::Branch),
        }
    }

    /// The registers that it may read. Of a call all that a function may take.
    pub fn reads(self) -> u16 {
        let (dst, src) = (1 << self.dst, 1 << self.src);
        let second = if self.by_register() { src } else { 0 };
        match (self.class(), self.code) {
            (LD, _) => 0,
            (LDX, _) => src,
            (ST, _) => dst,
            // Of a compare and exchange also register 0.
            (STX, _) => dst | src | 1,
            (ALU | ALU64, _) => match self.operation() {
                MOV => second,
                NEG | END => dst,
                _ => dst | second,
            },
            (_, JA) => 0,
            (_, CALL) => ARGUMENTS,
            (_, EXIT) => 1,
            _ => dst | second,
        }
    }

    /// The registers that hold something else afterwards, whatever was in them.
    pub fn writes(self) -> u16 {
        match (self.class(), self.code) {
            (LD | LDX | ALU | ALU64, _) => 1 << self.dst,
            (JMP, CALL) => CALLER_SAVED,
            _ => 0,
        }
    }

    /// Whether all that it does is to write a register. Not that of a function, which the kernel finds
    /// by the instructions that name it.
    pub fn only_writes(self) -> bool {
        matches!(self.class(), LD | LDX | ALU | ALU64) && self.flow() != Some(Flow::Function)
    }
}
