//! The instructions of a program as the kernel keeps them, and those of them that a packet can get to.

use std::collections::HashMap;

use cilmark::kernel::sys::{self, Hook};

use super::program::Endpoint;

/// A function of a program.
struct Function {
    name: String,
    /// The number of its first instruction.
    start: i64,
    instructions: u32,
    /// The first instructions of those that it calls.
    calls: Vec<i64>,
}

impl Endpoint<'_> {
    /// The functions that a program can get to, with the number of their instructions. One that was
    /// handed over as it is, without folding, has others, too, on a kernel before 6.8: that keeps
    /// global functions that nobody calls (`do_check_subprogs` in kernel/bpf/verifier.c).
    pub fn reachable_functions(&self, hook: Hook) -> HashMap<String, u32> {
        let id = sys::program_facts(self.program(hook)).expect("program info").id;
        let functions = parse(&self.fixture.world.sh(&format!("bpftool prog dump xlated id {id}")));
        let mut reached = HashMap::new();
        let mut starts = vec![0];
        while let Some(start) = starts.pop() {
            let function = functions.iter().find(|function| function.start == start);
            let function = function.unwrap_or_else(|| panic!("no function begins at {start}"));
            if reached.insert(function.name.clone(), function.instructions).is_none() {
                starts.extend(&function.calls);
            }
        }
        reached
    }
}

/// Reads `int name(struct …):`, then ` 7: (85) call pc+12#…` and other instructions.
fn parse(code: &str) -> Vec<Function> {
    let mut functions: Vec<Function> = Vec::new();
    for line in code.lines().filter(|line| !line.starts_with(';')) {
        let instruction = line.split_once(": (").and_then(|(number, what)| {
            let number: i64 = number.trim().parse().ok()?;
            Some((number, what))
        });
        match (instruction, functions.last_mut()) {
            (Some((number, what)), Some(function)) => {
                if function.instructions == 0 {
                    function.start = number;
                }
                function.instructions += 1;
                if let Some(distance) = what.strip_prefix("85) call pc") {
                    let distance = distance.split('#').next().and_then(|pc| pc.parse::<i64>().ok());
                    function.calls.push(number + 1 + distance.expect("a distance"));
                }
            }
            (None, _) if line.ends_with("):") => {
                let name = line.split('(').next().and_then(|start| start.split(' ').next_back());
                let name = name.expect("a name").trim_start_matches('*').to_owned();
                functions.push(Function { name, start: 0, instructions: 0, calls: Vec::new() });
            }
            _ => {}
        }
    }
    functions
}
