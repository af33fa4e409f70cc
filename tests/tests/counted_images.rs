//! Whether programs that count their ticks do so on every way round, judged by the machine code that is booted and by
//! nothing that the build has said.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};
use pollux_tests::workbench::image;

/// What is written by hand or calls nobody and comes to an end: it need not count. Beside it, functions of the compiler's
/// own, whose names begin with two underscores.
const UNCOUNTED: [&str; 13] = [
    "_start",
    "pollux_switch",
    "pollux_resume",
    "pollux_preempted",
    "pollux_ran_out",
    "memcpy",
    "memmove",
    "memset",
    "memcmp",
    "bcmp",
    "strlen",
    "_Unwind_Resume",
    "rust_eh_personality",
];

/// Functions with a loop written by hand, which does not count either.
const BY_HAND: [&str; 1] = ["registers_are_kept"];

/// The apps that tests boot with counted epochs.
const APPS: [&str; 6] = ["probe", "kv", "dhrystone", "diskload", "echo", "checkpoints"];

/// A function of a guest.
struct Function {
    name: String,
    code: Vec<Instruction>,
}

/// A guest, decoded.
struct Guest {
    /// Address of the counter.
    counter: u64,
    /// By their addresses.
    functions: BTreeMap<u64, Function>,
    /// Words of its data, by their addresses.
    data: BTreeMap<u64, u64>,
    /// Addresses of the functions that may return to their callers.
    returning: BTreeSet<u64>,
}

/// Whether an instruction jumps by a table of addresses within its function.
fn is_by_table(code: &Instruction) -> bool {
    code.flow_control() == FlowControl::IndirectBranch && code.memory_index() != Register::None
}

/// The functions that return, by themselves or because one returns for them that they jump to.
fn returning(functions: &BTreeMap<u64, Function>) -> BTreeSet<u64> {
    let returns = |code: &Instruction| match code.flow_control() {
        FlowControl::Return => true,
        FlowControl::IndirectBranch => !is_by_table(code),
        _ => false,
    };
    let by_themselves = functions.iter().filter(|(_, function)| function.code.iter().any(returns));
    let mut found: BTreeSet<u64> = by_themselves.map(|(address, _)| *address).collect();
    let jumps = |code: &&Instruction| {
        matches!(code.flow_control(), FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch)
    };
    loop {
        let returns_by = |function: &Function| {
            function.code.iter().filter(jumps).any(|code| found.contains(&code.near_branch_target()))
        };
        let more = functions.iter().filter(|(address, function)| !found.contains(address) && returns_by(function));
        let more: Vec<u64> = more.map(|(address, _)| *address).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

impl Guest {
    fn of(app: &str) -> Self {
        let path = image(&format!("{app}.counted")).with_extension("guest.elf");
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = object::File::parse(&*bytes).expect("a guest is an ELF file");
        let counter = file.symbol_by_name("pollux_ticks").expect("the guest has a counter").address();
        let mut functions = BTreeMap::new();
        for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
            let section = file.section_by_index(symbol.section_index().expect("of a section")).expect("which there is");
            let code = section.data_range(symbol.address(), symbol.size()).expect("readable").expect("within it");
            let decoder = Decoder::with_ip(64, code, symbol.address(), DecoderOptions::NONE);
            let name = symbol.name().expect("a name").to_owned();
            functions.insert(symbol.address(), Function { name, code: decoder.into_iter().collect() });
        }
        let is_data = |name: &str| [".rodata", ".data"].contains(&name);
        let sections = file.sections().filter(|section| section.name().is_ok_and(is_data));
        let data = sections.flat_map(|section| {
            let bytes = section.data().expect("readable").chunks_exact(8);
            let words = bytes.map(|word| u64::from_le_bytes(word.try_into().expect("eight")));
            (section.address()..).step_by(8).zip(words).collect::<Vec<_>>()
        });
        Self { counter, data: data.collect(), returning: returning(&functions), functions }
    }

    fn ticks(&self, instruction: &Instruction) -> bool {
        instruction.mnemonic() == Mnemonic::Dec
            && instruction.is_ip_rel_memory_operand()
            && instruction.ip_rel_memory_address() == self.counter
    }

    fn counted(&self) -> impl Iterator<Item = (&u64, &Function)> {
        let must = |name: &str| !UNCOUNTED.contains(&name) && !name.starts_with("__");
        self.functions.iter().filter(move |(_, function)| must(&function.name))
    }
}

/// A cycle in a graph of nodes from 0 on, if there is one.
fn cycle(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut state = vec![0_u8; edges.len()];
    for root in 0..edges.len() {
        if state[root] != 0 {
            continue;
        }
        let mut path = vec![(root, 0)];
        state[root] = 1;
        while let Some(step) = path.last_mut() {
            let (node, edge) = *step;
            step.1 += 1;
            match edges[node].get(edge) {
                Some(&next) if state[next] == 1 => {
                    let nodes = path.iter().map(|(node, _)| *node);
                    return Some(nodes.skip_while(|node| *node != next).collect());
                }
                Some(&next) if state[next] == 0 => {
                    state[next] = 1;
                    path.push((next, 0));
                }
                Some(_) => {}
                None => {
                    state[node] = 2;
                    path.pop();
                }
            }
        }
    }
    None
}

/// The ways through a function that pass no tick, as a graph of its instructions.
fn ways_without_ticks(guest: &Guest, function: &Function) -> Vec<Vec<usize>> {
    let at: HashMap<u64, usize> = function.code.iter().enumerate().map(|(index, code)| (code.ip(), index)).collect();
    let next = |index: usize, code: &Instruction| -> Vec<usize> {
        let straight = (index + 1 < function.code.len()).then_some(index + 1);
        let jump = at.get(&code.near_branch_target()).copied();
        match code.flow_control() {
            _ if guest.ticks(code) => Vec::new(),
            FlowControl::UnconditionalBranch => jump.into_iter().collect(),
            FlowControl::ConditionalBranch => jump.into_iter().chain(straight).collect(),
            FlowControl::Call if !guest.returning.contains(&code.near_branch_target()) => Vec::new(),
            FlowControl::Return | FlowControl::IndirectBranch | FlowControl::Exception => Vec::new(),
            _ => straight.into_iter().collect(),
        }
    };
    function.code.iter().enumerate().map(|(index, code)| next(index, code)).collect()
}

#[test]
fn every_way_round_within_a_function_ticks() {
    for app in APPS {
        let guest = Guest::of(app);
        let (mut functions, mut jumps) = (0, 0);
        for (_, function) in guest.counted() {
            functions += 1;
            if BY_HAND.iter().any(|name| function.name.contains(name)) {
                continue;
            }
            if let Some(round) = cycle(&ways_without_ticks(&guest, function)) {
                panic!("{app}: {} goes round at {:#x} without a tick", function.name, function.code[round[0]].ip());
            }
            for (index, code) in function.code.iter().enumerate() {
                if code.flow_control() == FlowControl::IndirectBranch {
                    jumps += 1;
                    // The decrement, a jump away if it has run out, and perhaps what restores flags and stack.
                    let before = |distance: usize| index.checked_sub(distance).map(|at| &function.code[at]);
                    let ticks = [before(2), before(4)].into_iter().flatten().any(|code| guest.ticks(code));
                    assert!(ticks, "{app}: {} jumps at {:#x} without a tick", function.name, code.ip());
                }
            }
        }
        println!("{app}: {functions} functions, {jumps} indirect jumps");
        assert!(functions > 100 && jumps > 10, "{app}: {functions} functions, {jumps} indirect jumps");
    }
}

/// Who calls whom without ticking first, as a graph. Its last node is whatever is called through a register.
fn calls_without_ticks(guest: &Guest) -> (Vec<&str>, Vec<Vec<usize>>) {
    let numbers: BTreeMap<u64, usize> = guest.functions.keys().copied().zip(0..).collect();
    let anybody = numbers.len();
    let mut edges = vec![Vec::new(); anybody + 1];
    let mut taken = BTreeSet::new();
    // Calls go through words that the linker has made for them; such a word takes no address from anybody.
    let mut called_through = BTreeSet::new();
    for (number, function) in guest.functions.values().enumerate() {
        for code in &function.code {
            let target = numbers.get(&code.near_branch_target()).copied();
            match code.flow_control() {
                FlowControl::Call => edges[number].extend(target),
                FlowControl::IndirectCall if code.is_ip_rel_memory_operand() => {
                    called_through.insert(code.ip_rel_memory_address());
                    let callee = guest.data.get(&code.ip_rel_memory_address()).and_then(|word| numbers.get(word));
                    edges[number].push(callee.copied().unwrap_or(anybody));
                }
                FlowControl::IndirectCall => edges[number].push(anybody),
                FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
                    edges[number].extend(target);
                }
                FlowControl::IndirectBranch => edges[number].extend((!is_by_table(code)).then_some(anybody)),
                _ => {
                    let immediate = code.op_kinds().any(|kind| {
                        matches!(kind, OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64)
                    });
                    let named = [
                        code.is_ip_rel_memory_operand().then(|| code.ip_rel_memory_address()),
                        immediate.then(|| {
                            if code.op1_kind() == OpKind::Immediate64 {
                                code.immediate64()
                            } else {
                                u64::from(code.immediate32())
                            }
                        }),
                    ];
                    let named = named
                        .into_iter()
                        .flatten()
                        .flat_map(|address| [Some(address), guest.data.get(&address).copied()]);
                    taken.extend(named.flatten().filter_map(|address| numbers.get(&address).copied()));
                }
            }
        }
    }
    let words = guest.data.iter().filter(|(address, _)| !called_through.contains(address));
    taken.extend(words.filter_map(|(_, word)| numbers.get(word).copied()));
    edges[anybody].extend(taken);
    let ticks_first =
        guest.functions.values().map(|function| function.code.first().is_some_and(|code| guest.ticks(code)));
    let ticks_first: Vec<bool> = ticks_first.chain([false]).collect();
    let returns = guest.functions.keys().map(|address| guest.returning.contains(address));
    let returns: Vec<bool> = returns.chain([true]).collect();
    for (number, edges) in edges.iter_mut().enumerate() {
        // A call that never comes back takes stack, of which there is a bounded amount.
        edges.retain(|&callee| !ticks_first[callee] && !ticks_first[number] && returns[callee]);
    }
    (guest.functions.values().map(|function| function.name.as_str()).collect(), edges)
}

#[test]
fn every_way_round_through_calls_ticks() {
    for app in APPS {
        let guest = Guest::of(app);
        let (names, edges) = calls_without_ticks(&guest);
        if let Some(round) = cycle(&edges) {
            let names: Vec<_> = round.iter().map(|node| names.get(*node).unwrap_or(&"(by a register)")).collect();
            panic!("{app}: these call each other without a tick: {names:?}");
        }
        let silent =
            guest.counted().filter(|(_, function)| !function.code.first().is_some_and(|code| guest.ticks(code)));
        println!("{app}: {} of {} functions need no tick at their entry", silent.count(), guest.counted().count());
    }
}

/// The check must find what it is for: the same programs when they do not count.
#[test]
fn without_ticks_there_are_ways_round() {
    let mut guest = Guest::of("probe");
    guest.counter = 0;
    let cyclic = guest.counted().filter(|(_, function)| cycle(&ways_without_ticks(&guest, function)).is_some()).count();
    assert!(cyclic > 50, "{cyclic}");
    assert!(cycle(&calls_without_ticks(&guest).1).is_some());
}
