//! Does to a program what the verifier would do with its frozen configuration, before the kernel sees
//! it: loads from the configuration, in which each program's own name stands as well, become numbers,
//! branches on them jumps or nothing, and what is then never reached or never used goes. The kernel
//! walks, keeps and compiles what is left.
//!
//! Pure, and wary: what it does not know exactly stays as it is, for the verifier to judge. Nothing is
//! known of the stack, of what calls leave, and of what functions are called with.

mod code;
mod values;

use code::{Op, Parts};
use values::{NOTHING_KNOWN, State, Value};

pub use values::Constants;

use crate::kernel::insn::{Code, Flow, LD_IMM64, MOV32_IMM, MOV64_IMM};

#[cfg(test)]
mod tests;

/// The same program where these are the constants. `None` if it has instructions that are unknown here.
pub fn fold(code: &Code, constants: &Constants<'_>) -> Option<Code> {
    let mut parts = Parts::of(code)?;
    let (reached, changed) = Flowing::new(&parts.ops, constants).settle();
    for (at, op) in changed {
        parts.ops[at] = op;
    }
    parts.functions.retain(|function| reached[function.first]);
    parts.keep(&reached);
    parts.keep(&used(&parts.ops));
    parts.join(&code.lines)
}

/// What registers hold, along every way that a program can take with these constants. It is known
/// where ways part and meet, from where it is computed on; a way ends where another one begins.
struct Flowing<'a> {
    ops: &'a [Op],
    constants: &'a Constants<'a>,
    /// Where a way begins: at targets.
    begins: Vec<bool>,
    /// What is known where a way begins that was reached.
    states: Vec<Option<Box<State>>>,
    /// Ways to follow again, since less is known there than was.
    pending: Vec<usize>,
}

impl<'a> Flowing<'a> {
    fn new(ops: &'a [Op], constants: &'a Constants<'a>) -> Flowing<'a> {
        let mut begins = vec![false; ops.len()];
        let targets = ops.iter().filter(|op| !matches!(op.flow, Flow::Next | Flow::Exit));
        for target in targets.map(|op| op.target()).chain([0]) {
            begins[target] = true;
        }
        Flowing { ops, constants, begins, states: vec![None; ops.len()], pending: Vec::new() }
    }

    /// Which instructions are reached, and those of them that become others.
    fn settle(mut self) -> (Vec<bool>, Vec<(usize, Op)>) {
        self.arrive(0, &NOTHING_KNOWN);
        while let Some(begin) = self.pending.pop() {
            self.follow(begin, |_, _| ());
        }
        let (ops, constants) = (self.ops, self.constants);
        let mut reached = vec![false; ops.len()];
        let mut changed = Vec::new();
        for begin in 0..ops.len() {
            self.follow(begin, |at, state| {
                reached[at] = true;
                changed.extend(folded(&ops[at], at, state, constants).map(|op| (at, op)));
            });
        }
        (reached, changed)
    }

    /// Goes a way from its beginning, if that was reached, to its end.
    fn follow(&mut self, begin: usize, mut visit: impl FnMut(usize, &State)) {
        let Some(mut state) = self.states[begin].as_deref().copied() else { return };
        let mut at = begin;
        loop {
            visit(at, &state);
            let op = &self.ops[at];
            let taken = match op.flow {
                Flow::Branch => values::taken(&state, op.insn),
                Flow::Jump => Some(true),
                Flow::Exit => return,
                Flow::Next => Some(false),
                Flow::Call | Flow::Function => {
                    self.arrive(op.target(), &NOTHING_KNOWN);
                    Some(false)
                }
            };
            if taken != Some(false) {
                self.arrive(op.target(), &state);
            }
            if taken == Some(true) {
                return;
            }
            values::step(&mut state, op.insn, op.high, self.constants);
            at += 1;
            if self.begins[at] {
                return self.arrive(at, &state);
            }
        }
    }

    fn arrive(&mut self, at: usize, state: &State) {
        match &mut self.states[at] {
            Some(known) => {
                if !known.meet(state) {
                    return;
                }
            }
            nothing => *nothing = Some(Box::new(*state)),
        }
        self.pending.push(at);
    }
}

/// What an instruction becomes where this is known; `None` if it stays what it is.
fn folded(op: &Op, at: usize, state: &State, constants: &Constants<'_>) -> Option<Op> {
    if op.flow == Flow::Branch {
        let taken = values::taken(state, op.insn)?;
        return Some(op.jump_to(if taken { op.target() } else { at + 1 }));
    }
    let is_constant = [LD_IMM64, MOV32_IMM, MOV64_IMM].contains(&op.insn.code);
    if is_constant || !op.insn.only_writes() {
        return None;
    }
    match values::result(state, op.insn, op.high, constants) {
        Value::Number(value) => Some(op.constant(value)),
        _ => None,
    }
}

/// What `used` asks of an instruction more than once.
struct Effect {
    reads: u16,
    writes: u16,
    only_writes: bool,
    falls_through: bool,
    /// The instruction itself, if it does not jump.
    target: usize,
}

impl Effect {
    fn of(at: usize, op: &Op) -> Effect {
        Effect {
            reads: op.insn.reads(),
            writes: op.insn.writes(),
            only_writes: op.insn.only_writes(),
            falls_through: op.falls_through(),
            target: if matches!(op.flow, Flow::Jump | Flow::Branch) { op.target() } else { at },
        }
    }

    /// Which registers are read behind it, by what is read before each instruction.
    fn read_behind(&self, read: &[u16], at: usize) -> u16 {
        let next = if self.falls_through { read[at + 1] } else { 0 };
        if self.target == at { next } else { next | read[self.target] }
    }

    fn reads_before(&self, behind: u16) -> u16 {
        if self.is_unread(behind) { behind } else { self.reads | (behind & !self.writes) }
    }

    fn is_unread(&self, behind: u16) -> bool {
        self.only_writes && behind & self.writes == 0
    }
}

/// Which instructions do anything: not those that only write registers that nobody reads before they
/// are written again, nor jumps to what comes next anyway.
fn used(ops: &[Op]) -> Vec<bool> {
    let effects: Vec<_> = ops.iter().enumerate().map(|(at, op)| Effect::of(at, op)).collect();
    let mut read = vec![0u16; ops.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for (at, effect) in effects.iter().enumerate().rev() {
            let before = effect.reads_before(effect.read_behind(&read, at));
            // Only what comes before its target has not been asked in this round.
            changed |= before != read[at];
            read[at] = before;
        }
    }
    let used = |(at, effect): (usize, &Effect)| match effect.target {
        target if target == at => !effect.is_unread(effect.read_behind(&read, at)),
        target => target != at + 1,
    };
    effects.iter().enumerate().map(used).collect()
}
