//! What is put into assembly.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::calls::recursive_names;
use super::source::{Line, Source};
use super::*;

/// A function as the compiler writes it.
fn function(name: &str, body: &str) -> String {
    format!(
        "\t.section\t.text.{name},\"ax\",@progbits\n\t.p2align\t4\n\t.type\t{name},@function\n{name}:\n.Lfunc_begin_{name}:\n\
         \t.cfi_startproc\n{body}.Lfunc_end_{name}:\n\t.size\t{name}, .Lfunc_end_{name}-{name}\n\t.cfi_endproc\n"
    )
}

fn counted(text: &str) -> Counted {
    instrument(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn sites(text: &str) -> (usize, usize, usize, usize) {
    let Sites { entries, loops, indirect, keeping_flags } = counted(text).sites;
    (entries, loops, indirect, keeping_flags)
}

#[test]
fn jumps_backwards_tick_and_others_do_not() {
    let conditional =
        function("f", ".LBB0_1:\n\tincq\t%rax\n\tcmpq\t$9, %rax\n\tjne\t.LBB0_1\n\tje\t.LBB0_2\n.LBB0_2:\n\tretq\n");
    assert_eq!(sites(&conditional), (0, 1, 0, 0));
    // Even one that does nothing else.
    let empty = function("f", ".LBB0_1:\n\tjmp\t.LBB0_1\n");
    assert_eq!(sites(&empty), (0, 1, 0, 0));
    let text = counted(&empty).assembly;
    assert!(text.contains(".LBB0_1:\n\tdecq\tpollux_ticks(%rip)\n\tjns\t.LBB0_1\n\tjmp\t.Lpollux1\n"), "{text}");
    let table = function("f", "\tjmpq\t*.LJTI0_0(,%rax,8)\n.LBB0_1:\n\tretq\n") + "\t.quad\t.LBB0_1\n";
    assert_eq!(sites(&table), (0, 0, 1, 0));
    let short_reach = function("f", ".LBB0_1:\n\tdecq\t%rcx\n\tjrcxz\t.LBB0_1\n\tretq\n");
    assert_eq!(sites(&short_reach), (0, 1, 0, 0));
}

#[test]
fn flags_that_somebody_reads_are_kept() {
    let chain = function("f", ".LBB0_1:\n\tadcq\t(%rdi), %rax\n\tleaq\t8(%rdi), %rdi\n\tjmp\t.LBB0_1\n");
    assert_eq!(sites(&chain), (0, 1, 0, 1));
    let through = function("f", ".LBB0_1:\n\tmovq\t%rax, %rcx\n\tjmp\t.LBB0_2\n.LBB0_2:\n\tje\t.LBB0_1\n\tretq\n");
    assert_eq!(sites(&through), (0, 1, 0, 1));
    let table = function("f", "\tjmpq\t*.LJTI0_0(,%rax,8)\n.LBB0_1:\n\tsete\t%al\n\tretq\n") + "\t.quad\t.LBB0_1\n";
    assert_eq!(sites(&table), (0, 0, 1, 1));
}

#[test]
fn hand_written_assembly_is_left_alone() {
    let inline = function("f", "\t#APP\n.Ltmp1:\n\tdecq\t%rcx\n\tjne\t.Ltmp1\n\t#NO_APP\n\tretq\n");
    assert_eq!(sites(&inline), (0, 0, 0, 0));
    assert_eq!(counted(&inline).by_hand, ["f"]);
    let module = "\t.type\tby_hand,@function\nby_hand:\n\tjmp\tby_hand\n.Ltmp0:\n\t.size\tby_hand, .Ltmp0-by_hand\n";
    let text = module.to_owned() + &function("f", "\tretq\n");
    assert_eq!(sites(&text), (0, 0, 0, 0));
    let counted = counted(&text);
    assert_eq!(counted.functions, HashSet::from(["f".to_owned()]));
    assert!(counted.assembly.starts_with(module));
}

#[test]
fn what_is_no_whole_guest_is_refused() {
    assert_eq!(instrument("\t.text\n"), Err(TickError::NoFunctions));
    let wild = function("f", "\tjmp\t.LBB7_7\n");
    assert_eq!(instrument(&wild), Err(TickError::UnknownTarget { line: 7, target: ".LBB7_7".to_owned() }));
    let unended = "f:\n\tretq\n\t.size\tf, .Lfunc_end0-f\n";
    assert_eq!(instrument(unended), Err(TickError::Unended { line: 1, name: "f".to_owned() }));
    let again = counted(&function("f", "\tretq\n")).assembly;
    assert_eq!(instrument(&again), Err(TickError::Counts));
}

#[test]
fn functions_that_may_call_themselves_are_found() {
    let text = [
        function("leaf", "\tcallq\t*memcpy@GOTPCREL(%rip)\n\tretq\n"),
        function("itself", "\tcallq\titself\n\tretq\n"),
        function("tail", "\tje\ttail\n\tretq\n"),
        function("one", "\tcallq\tother_name\n\tcallq\tleaf\n\tretq\n"),
        function("other", "\tcallq\t*one@GOTPCREL(%rip)\n\tretq\n"),
        // Whatever is called through a register may be anything whose address was taken.
        function("caller", "\tcallq\t*%rax\n\tretq\n"),
        function("callback", "\tcallq\tcaller\n\tretq\n"),
        function("in_table", "\tjmp\tcaller\n"),
        function("visible", "\tcallq\tsomewhere_else\n\tretq\n"),
        function("taker", "\tleaq\tcallback(%rip), %rax\n\tretq\n"),
        // It may be called by anybody, but comes back.
        function("taken", "\tcallq\tleaf\n\tretq\n"),
        // A panic calls whatever prints its message, and does not return.
        function("panics", "\tcallq\t*%rax\n\tud2\n"),
        function("printer", "\tcallq\tpanics\n\tretq\n"),
        function("copies", "\tjmpq\t*memcpy@GOTPCREL(%rip)\n"),
    ]
    .concat()
        + "\t.set other_name, other\n\t.globl\tvisible\n\t.section\t.data.rel.ro,\"aw\",@progbits\n\
           \t.quad\tin_table\n\t.quad\ttaken\n\t.quad\tprinter\n\t.quad\tcopies\n";
    let source = Source::parse(&text).expect("assembly");
    let found: BTreeSet<_> = recursive_names(&source).into_iter().collect();
    let expected = ["itself", "tail", "one", "other", "caller", "callback", "in_table", "visible"];
    assert_eq!(found, BTreeSet::from(expected));
}

#[test]
fn a_function_that_calls_itself_ticks_before_its_first_label() {
    let text = counted(&function("f", ".LBB0_1:\n\tcallq\tf\n\tjne\t.LBB0_1\n\tretq\n"));
    assert_eq!(text.sites, Sites { entries: 1, loops: 1, indirect: 0, keeping_flags: 0 });
    let tick = text.assembly.find("decq").expect("a tick");
    assert!(tick < text.assembly.find(".LBB0_1:").expect("the label"), "{}", text.assembly);
}

/// Takes assembly that counts apart again: with what ticks taken away, no function may have a way round. The instructions
/// that tick are recognised by the counter that they name, not by where they were put.
#[test]
fn without_ticks_there_is_no_way_round() {
    let (mut seed, mut cyclic) = (0x5eed_u64, 0);
    for number in 0..500 {
        let text = function("f", &random_body(&mut seed));
        let assembly = counted(&text).assembly;
        let source = Source::read(&assembly).expect("assembly");
        assert!(!has_untold_cycle(&source), "number {number}:\n{text}\nbecame\n{assembly}");
        cyclic += usize::from(has_untold_cycle(&Source::read(&text).expect("assembly")));
    }
    // The check finds what there is.
    assert!(cyclic > 100, "{cyclic}");
}

/// A function of eight blocks that jump at random.
fn random_body(seed: &mut u64) -> String {
    let mut next = |below: u64| {
        *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (*seed >> 33) % below
    };
    let mut body = String::new();
    for block in 0..8 {
        let _ = writeln!(body, ".LBB0_{block}:");
        for _ in 0..next(3) {
            let instruction =
                ["addq\t$1, %rax", "adcq\t$0, %rcx", "movq\t%rax, %rcx", "cmpq\t%rax, %rcx"][next(4) as usize];
            let _ = writeln!(body, "\t{instruction}");
        }
        match next(4) {
            0 => drop(writeln!(body, "\tjmp\t.LBB0_{}", next(8))),
            1 => drop(writeln!(body, "\tjne\t.LBB0_{}", next(8))),
            2 => drop(writeln!(body, "\tjb\t.LBB0_{}\n\tjmp\t.LBB0_{}", next(8), next(8))),
            _ => {}
        }
    }
    body + "\tretq\n"
}

/// Whether the one function of a source has a cycle that passes no instruction which names the counter.
fn has_untold_cycle(source: &Source<'_>) -> bool {
    let function = source.functions[0];
    let next = |line: usize| -> Vec<usize> {
        use super::flags::Jump;
        match (Jump::of(&source.lines[line]), source.lines[line]) {
            (_, Line::Instruction { operands, .. }) if operands.contains(COUNTER) => Vec::new(),
            (_, Line::Instruction { mnemonic: "retq", .. }) => Vec::new(),
            (Jump::Always(label), _) => vec![source.labels[label]],
            (Jump::If(label), _) => vec![source.labels[label], line + 1],
            _ => vec![line + 1],
        }
    };
    let mut state = vec![0; source.lines.len() + 1];
    let mut path = vec![(function.first, 0)];
    state[function.first] = 1;
    while let Some(step) = path.last_mut() {
        let (line, edge) = *step;
        step.1 += 1;
        match next(line).get(edge).copied().filter(|&to| to < function.end) {
            Some(to) if state[to] == 1 => return true,
            Some(to) if state[to] == 0 => {
                state[to] = 1;
                path.push((to, 0));
            }
            Some(_) => {}
            None if edge < next(line).len() => {}
            None => {
                state[line] = 2;
                path.pop();
            }
        }
    }
    false
}
