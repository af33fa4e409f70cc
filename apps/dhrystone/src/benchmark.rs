//! The main program of the benchmark: its local variables, its measurement loop.

use core::hint::black_box;

use crate::procedures::{Globals, func_1, func_2, proc_1, proc_2, proc_4, proc_5, proc_6, proc_7, proc_8};
use crate::records::{Address, Enumeration, Heap, Record, Str30, Var1, Variant};

pub(crate) const SOME_STRING: Str30 = *b"DHRYSTONE PROGRAM, SOME STRING";
pub(crate) const FIRST_STRING: Str30 = *b"DHRYSTONE PROGRAM, 1'ST STRING";
pub(crate) const SECOND_STRING: Str30 = *b"DHRYSTONE PROGRAM, 2'ND STRING";
const THIRD_STRING: Str30 = *b"DHRYSTONE PROGRAM, 3'RD STRING";

/// What the element of the matrix that counts runs starts from.
pub(crate) const COUNT_BASE: i32 = 10;

/// The most runs that the published counter, an `int`, can count.
pub const MOST_RUNS: i32 = i32::MAX - COUNT_BASE;

/// The local variables of the main program.
#[derive(Debug)]
pub(crate) struct Locals {
    pub(crate) int_1_loc: i32,
    pub(crate) int_2_loc: i32,
    pub(crate) int_3_loc: i32,
    pub(crate) enum_loc: Enumeration,
    pub(crate) str_1_loc: Str30,
    pub(crate) str_2_loc: Str30,
}

/// A benchmark under way.
#[derive(Debug)]
pub struct Benchmark {
    pub(crate) globals: Globals,
    pub(crate) locals: Locals,
    pub(crate) runs: i32,
}

impl Default for Benchmark {
    fn default() -> Self {
        Self::new()
    }
}

impl Benchmark {
    /// Everything as it is before the first run. What C leaves undefined until then is zero or blank.
    pub fn new() -> Self {
        let locals = Locals {
            int_1_loc: 0,
            int_2_loc: 0,
            int_3_loc: 0,
            enum_loc: Enumeration::Ident1,
            str_1_loc: FIRST_STRING,
            str_2_loc: [b' '; 30],
        };
        Self { globals: globals(), locals, runs: 0 }
    }

    /// Goes through the measurement loop so many times more; in all at most [`MOST_RUNS`].
    pub fn run(&mut self, runs: i32) {
        for _ in 0..runs {
            self.runs += 1;
            // Each run finds its variables in memory, in a state that the compiler cannot foresee.
            let this = black_box(&mut *self);
            run_once(this.runs, &mut this.globals, &mut this.locals);
        }
    }
}

fn globals() -> Globals {
    let blank = Var1 { enum_comp: Enumeration::Ident1, int_comp: 0, str_comp: [b' '; 30] };
    let mut heap = Heap::new(Record { ptr_comp: None, variant: Variant::Var1(blank) });
    let (next_ptr_glob, ptr_glob) = (Some(Address::First), Some(Address::Second));
    let components = Var1 { enum_comp: Enumeration::Ident3, int_comp: 40, str_comp: SOME_STRING };
    *heap.at_mut(ptr_glob) = Record { ptr_comp: next_ptr_glob, variant: Variant::Var1(components) };
    let mut arr_2_glob = [[0; 50]; 50];
    arr_2_glob[8][7] = COUNT_BASE;
    Globals {
        heap,
        ptr_glob,
        next_ptr_glob,
        int_glob: 0,
        bool_glob: false,
        ch_1_glob: 0,
        ch_2_glob: 0,
        arr_1_glob: [0; 50],
        arr_2_glob,
    }
}

/// The body of the measurement loop.
fn run_once(run_index: i32, globals: &mut Globals, locals: &mut Locals) {
    proc_5(globals);
    proc_4(globals);
    locals.int_1_loc = 2;
    locals.int_2_loc = 3;
    copy_string(&mut locals.str_2_loc, &SECOND_STRING);
    locals.enum_loc = Enumeration::Ident2;
    globals.bool_glob = !func_2(&locals.str_1_loc, &locals.str_2_loc, globals);
    while locals.int_1_loc < locals.int_2_loc {
        // Run once.
        locals.int_3_loc = 5 * locals.int_1_loc - locals.int_2_loc;
        proc_7(locals.int_1_loc, locals.int_2_loc, &mut locals.int_3_loc);
        locals.int_1_loc += 1;
    }
    let (int_1_loc, int_3_loc) = (black_box(locals.int_1_loc), locals.int_3_loc);
    proc_8(&mut globals.arr_1_glob, &mut globals.arr_2_glob, int_1_loc, int_3_loc, &mut globals.int_glob);
    proc_1(globals.ptr_glob, globals);
    compare_characters(run_index, globals, locals);
    locals.int_2_loc *= locals.int_1_loc;
    locals.int_1_loc = locals.int_2_loc / locals.int_3_loc;
    locals.int_2_loc = 7 * (locals.int_2_loc - locals.int_3_loc) - locals.int_1_loc;
    proc_2(&mut locals.int_1_loc, globals);
}

/// The inner loop of the main program, no procedure of the published one: it is to be inlined.
#[inline(always)]
fn compare_characters(run_index: i32, globals: &mut Globals, locals: &mut Locals) {
    // Run twice. Ch_2_Glob is read anew each time.
    let mut ch_index = b'A';
    while ch_index <= globals.ch_2_glob {
        if locals.enum_loc == func_1(ch_index, b'C', &mut globals.ch_1_glob) {
            // Never run.
            proc_6(Enumeration::Ident1, &mut locals.enum_loc, &globals.int_glob);
            copy_string(&mut locals.str_2_loc, &THIRD_STRING);
            locals.int_2_loc = run_index;
            globals.int_glob = run_index;
        }
        ch_index += 1;
    }
}

/// The strcpy of C, which copies from memory whatever the compiler knows of the text.
#[inline(always)]
fn copy_string(to: &mut Str30, from: &Str30) {
    *to = *black_box(from);
}
