//! Which functions may come to call themselves: they tick at their entry, so that recursion ends an epoch too.
//!
//! A call through a register may lead to every function whose address somebody has taken, and code from elsewhere may
//! call those and whatever symbol it can see. The groups of functions that call each other are Tarjan's strongly connected
//! components (SIAM J. Comput. 1(2), 1972).
//!
//! A call of a function that never returns, such as a panic, counts as none: each one takes from the stack what it never
//! gives back, so a stack has room for a bounded number of them. Nearly every function may panic, and a panic may call
//! nearly every function.

use std::collections::HashMap;
#[cfg(test)]
use std::collections::HashSet;

use super::flags::Jump;
use super::source::{Line, Source, symbols};

/// Functions from elsewhere that call nothing back: those that compilers themselves make calls to.
const CALL_NOBODY: [&str; 6] = ["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"];

/// For each function of the source whether it may come to call itself.
pub(super) fn recursive(source: &Source<'_>) -> Vec<bool> {
    let mut graph = Graph::of(source);
    let returning = graph.returning();
    graph.edges.iter_mut().for_each(|edges| {
        edges.retain(|&callee| returning[callee]);
        edges.sort_unstable();
        edges.dedup();
    });
    let components = components(&graph.edges);
    let mut members: HashMap<usize, usize> = HashMap::new();
    for &component in &components {
        *members.entry(component).or_default() += 1;
    }
    (0..source.functions.len())
        .map(|function| members[&components[function]] > 1 || graph.edges[function].contains(&function))
        .collect()
}

/// Who calls whom. The last node stands for whatever is called through a register, and for all code from elsewhere.
struct Graph<'a> {
    numbers: HashMap<&'a str, usize>,
    anybody: usize,
    edges: Vec<Vec<usize>>,
    /// Which functions have an instruction that returns.
    has_return: Vec<bool>,
    /// Callers and those whom they leave the return to.
    tails: Vec<(usize, usize)>,
}

impl<'a> Graph<'a> {
    fn of(source: &Source<'a>) -> Self {
        let numbers = source.functions.iter().enumerate().map(|(number, function)| (function.name, number)).collect();
        let anybody = source.functions.len();
        let mut graph = Self {
            numbers,
            anybody,
            edges: vec![Vec::new(); anybody + 1],
            has_return: vec![false; anybody + 1],
            tails: Vec::new(),
        };
        graph.has_return[anybody] = true;
        let mut function = 0;
        let mut in_debug_data = false;
        for (index, line) in source.lines.iter().enumerate() {
            while source.functions.get(function).is_some_and(|current| current.end <= index) {
                function += 1;
            }
            let inside = source.functions.get(function).is_some_and(|current| current.first <= index);
            match *line {
                Line::Directive { name: ".section", operands } => in_debug_data = operands.starts_with(".debug"),
                Line::Directive { name: ".text" | ".data" | ".bss", .. } => in_debug_data = false,
                Line::Directive { name: ".globl" | ".weak", operands } => graph.expose(source, operands.trim()),
                Line::Directive { name: ".quad" | ".long", operands } if !in_debug_data => {
                    symbols(operands).for_each(|symbol| graph.expose(source, symbol));
                }
                Line::Instruction { mnemonic, operands } => {
                    graph.instruction(source, inside.then_some(function), (line, mnemonic, operands));
                }
                _ => {}
            }
        }
        graph
    }

    /// Which nodes may return to their callers.
    fn returning(&self) -> Vec<bool> {
        let mut returning = self.has_return.clone();
        let mut grows = true;
        while grows {
            grows = false;
            for &(caller, callee) in &self.tails {
                if returning[callee] && !returning[caller] {
                    returning[caller] = true;
                    grows = true;
                }
            }
        }
        returning
    }

    /// Somebody unknown may call the function of this name, if it is one.
    fn expose(&mut self, source: &Source<'a>, symbol: &'a str) {
        if let Some(&function) = self.numbers.get(source.resolve(symbol)) {
            self.edges[self.anybody].push(function);
        }
    }

    /// An instruction of a function, or of assembly outside all of them.
    fn instruction(
        &mut self,
        source: &Source<'a>,
        caller: Option<usize>,
        (line, mnemonic, operands): (&Line<'a>, &'a str, &'a str),
    ) {
        if let Some(caller) = caller
            && mnemonic.starts_with("ret")
        {
            self.has_return[caller] = true;
        }
        let jump = Jump::of(line);
        let target = match jump {
            Jump::None if !matches!(mnemonic, "call" | "callq") => None,
            Jump::None | Jump::Always(_) | Jump::If(_) | Jump::Indirect => Some(target(operands)),
        };
        match (caller, target) {
            // What has its address in a register may be called by anybody who gets it.
            (_, None) => symbols(operands).for_each(|symbol| self.expose(source, symbol)),
            (None, Some(target)) => target.into_iter().for_each(|symbol| self.expose(source, symbol)),
            (Some(caller), Some(target)) => {
                let is_tail = jump != Jump::None;
                match target.map_or(Callee::Node(self.anybody), |symbol| self.callee(source, symbol)) {
                    Callee::Inside => {}
                    Callee::Nobody => self.has_return[caller] |= is_tail,
                    Callee::Node(callee) => {
                        self.edges[caller].push(callee);
                        self.tails.extend(is_tail.then_some((caller, callee)));
                    }
                }
            }
        }
    }

    /// Whom a call or a jump to this symbol leads to.
    fn callee(&self, source: &Source<'a>, symbol: &'a str) -> Callee {
        let symbol = source.resolve(symbol);
        match self.numbers.get(symbol) {
            Some(&function) => Callee::Node(function),
            None if symbol.starts_with(".L") => Callee::Inside,
            None if CALL_NOBODY.contains(&symbol) => Callee::Nobody,
            None => Callee::Node(self.anybody),
        }
    }
}

/// Whom a call or a jump leads to.
enum Callee {
    /// A label of the function itself.
    Inside,
    /// A function that calls nobody, and returns.
    Nobody,
    /// A node of the graph.
    Node(usize),
}

/// The one symbol that a call or a jump leads to: directly, by the table of addresses that a linker makes, or by a table
/// of labels. `None` when only the processor knows.
fn target(operands: &str) -> Option<&str> {
    let Some(place) = operands.strip_prefix('*') else { return symbols(operands).next() };
    let symbol = symbols(place).next()?;
    (place.contains("@GOTPCREL(%rip)") || symbol.starts_with(".LJTI")).then_some(symbol)
}

/// The number of the strongly connected component of each node.
fn components(edges: &[Vec<usize>]) -> Vec<usize> {
    const UNSEEN: usize = usize::MAX;
    let mut search = Search {
        edges,
        order: vec![UNSEEN; edges.len()],
        lowest: vec![0; edges.len()],
        component: vec![UNSEEN; edges.len()],
        stack: Vec::new(),
        seen: 0,
    };
    for node in 0..edges.len() {
        if search.order[node] == UNSEEN {
            search.from(node);
        }
    }
    search.component
}

struct Search<'a> {
    edges: &'a [Vec<usize>],
    /// When a node was first seen; `usize::MAX` before.
    order: Vec<usize>,
    /// The oldest node that can be reached from it, of those whose component is open.
    lowest: Vec<usize>,
    component: Vec<usize>,
    /// The nodes whose component is open.
    stack: Vec<usize>,
    seen: usize,
}

impl Search<'_> {
    /// Tarjan's search, with a path of its own instead of the processor's stack: call chains are long.
    fn from(&mut self, root: usize) {
        let mut path = vec![(root, 0)];
        self.see(root);
        while let Some(step) = path.last_mut() {
            let (node, edge) = *step;
            step.1 += 1;
            match self.edges[node].get(edge).copied() {
                Some(next) if self.order[next] == usize::MAX => {
                    self.see(next);
                    path.push((next, 0));
                }
                Some(next) if self.component[next] == usize::MAX => {
                    self.lowest[node] = self.lowest[node].min(self.order[next]);
                }
                Some(_) => {}
                None => {
                    path.pop();
                    if let Some(&(parent, _)) = path.last() {
                        self.lowest[parent] = self.lowest[parent].min(self.lowest[node]);
                    }
                    if self.lowest[node] == self.order[node] {
                        self.close(node);
                    }
                }
            }
        }
    }

    fn see(&mut self, node: usize) {
        self.order[node] = self.seen;
        self.lowest[node] = self.seen;
        self.seen += 1;
        self.stack.push(node);
    }

    fn close(&mut self, root: usize) {
        while let Some(node) = self.stack.pop() {
            self.component[node] = root;
            if node == root {
                break;
            }
        }
    }
}

/// Names of the functions that may come to call themselves, for tests.
#[cfg(test)]
pub(super) fn recursive_names<'a>(source: &Source<'a>) -> HashSet<&'a str> {
    let flags = recursive(source);
    source.functions.iter().zip(flags).filter(|(_, flag)| *flag).map(|(function, _)| function.name).collect()
}
