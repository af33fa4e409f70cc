//! The procedures and functions under their published names.
//!
//! The rules forbid merging procedures, so none is ever inlined. In C they lie in two files that are compiled apart;
//! here the compiler sees everything, and `black_box` hides what the other file could not know.

use crate::records::{Enumeration, Heap, Pointer, Str30};

/// Arr_1_Dim.
pub type Array1 = [i32; 50];
/// Arr_2_Dim.
pub type Array2 = [[i32; 50]; 50];

/// The global variables.
#[derive(Debug)]
pub struct Globals {
    /// What was allocated.
    pub heap: Heap,
    /// Ptr_Glob.
    pub ptr_glob: Pointer,
    /// Next_Ptr_Glob.
    pub next_ptr_glob: Pointer,
    /// Int_Glob.
    pub int_glob: i32,
    /// Bool_Glob.
    pub bool_glob: bool,
    /// Ch_1_Glob.
    pub ch_1_glob: u8,
    /// Ch_2_Glob.
    pub ch_2_glob: u8,
    /// Arr_1_Glob.
    pub arr_1_glob: Array1,
    /// Arr_2_Glob.
    pub arr_2_glob: Array2,
}

/// Copies the record of `Ptr_Glob` over its successor, and changes both.
#[inline(never)]
pub fn proc_1(ptr_val_par: Pointer, globals: &mut Globals) {
    let next_record = globals.heap.at(ptr_val_par).ptr_comp;
    *globals.heap.at_mut(next_record) = *globals.heap.at(globals.ptr_glob);
    globals.heap.at_mut(ptr_val_par).var_1_mut().int_comp = 5;
    let int_comp = globals.heap.at(ptr_val_par).var_1().int_comp;
    globals.heap.at_mut(next_record).var_1_mut().int_comp = int_comp;
    // The parameter lies in a record and Proc_3 changes a record: copied in and out, as Ada passes it.
    let mut ptr_comp = globals.heap.at(ptr_val_par).ptr_comp;
    proc_3(&mut ptr_comp, globals);
    globals.heap.at_mut(next_record).ptr_comp = ptr_comp;
    if globals.heap.at(next_record).discr() == Enumeration::Ident1 {
        let enum_comp = globals.heap.at(ptr_val_par).var_1().enum_comp;
        let ptr_comp = globals.heap.at(globals.ptr_glob).ptr_comp;
        let next = globals.heap.at_mut(next_record);
        next.var_1_mut().int_comp = 6;
        proc_6(enum_comp, &mut next.var_1_mut().enum_comp, &globals.int_glob);
        next.ptr_comp = ptr_comp;
        proc_7(next.var_1().int_comp, 10, &mut next.var_1_mut().int_comp);
    } else {
        // Never run.
        *globals.heap.at_mut(ptr_val_par) = *globals.heap.at(next_record);
    }
}

/// Loops once.
#[inline(never)]
pub fn proc_2(int_par_ref: &mut i32, globals: &Globals) {
    let mut int_loc = *int_par_ref + 10;
    let mut enum_loc = Enumeration::Ident2;
    loop {
        if globals.ch_1_glob == b'A' {
            int_loc -= 1;
            *int_par_ref = int_loc - globals.int_glob;
            enum_loc = Enumeration::Ident1;
        }
        if enum_loc == Enumeration::Ident1 {
            return;
        }
    }
}

/// Follows `Ptr_Glob`.
#[inline(never)]
fn proc_3(ptr_ref_par: &mut Pointer, globals: &mut Globals) {
    if globals.ptr_glob.is_some() {
        *ptr_ref_par = globals.heap.at(globals.ptr_glob).ptr_comp;
    }
    proc_7(10, globals.int_glob, &mut globals.heap.at_mut(globals.ptr_glob).var_1_mut().int_comp);
}

/// Computes with global characters and truth values.
#[inline(never)]
pub fn proc_4(globals: &mut Globals) {
    let bool_loc = globals.ch_1_glob == b'A';
    globals.bool_glob |= bool_loc;
    globals.ch_2_glob = b'B';
}

/// Sets globals.
#[inline(never)]
pub fn proc_5(globals: &mut Globals) {
    globals.ch_1_glob = b'A';
    globals.bool_glob = false;
}

/// Maps an enumeration value to another; `int_glob` is the global variable.
#[inline(never)]
pub fn proc_6(enum_val_par: Enumeration, enum_ref_par: &mut Enumeration, int_glob: &i32) {
    *enum_ref_par = enum_val_par;
    if !func_3(enum_val_par) {
        *enum_ref_par = Enumeration::Ident4;
    }
    match enum_val_par {
        Enumeration::Ident1 => *enum_ref_par = Enumeration::Ident1,
        Enumeration::Ident2 if *int_glob > 100 => *enum_ref_par = Enumeration::Ident1,
        Enumeration::Ident2 => *enum_ref_par = Enumeration::Ident4,
        Enumeration::Ident3 => *enum_ref_par = Enumeration::Ident2,
        Enumeration::Ident4 => {}
        Enumeration::Ident5 => *enum_ref_par = Enumeration::Ident3,
    }
}

/// Adds its parameters and two.
#[inline(never)]
pub fn proc_7(int_1_par_val: i32, int_2_par_val: i32, int_par_ref: &mut i32) {
    let int_loc = int_1_par_val + 2;
    *int_par_ref = int_2_par_val + int_loc;
}

/// Computes with arrays; `int_glob` is the global variable.
#[inline(never)]
pub fn proc_8(
    arr_1_par_ref: &mut Array1,
    arr_2_par_ref: &mut Array2,
    int_1_par_val: i32,
    int_2_par_val: i32,
    int_glob: &mut i32,
) {
    let int_loc = int_1_par_val + 5;
    let at = int_loc as usize;
    arr_1_par_ref[at] = int_2_par_val;
    arr_1_par_ref[at + 1] = arr_1_par_ref[at];
    arr_1_par_ref[at + 30] = int_loc;
    for element in &mut arr_2_par_ref[at][at..=at + 1] {
        *element = int_loc;
    }
    arr_2_par_ref[at][at - 1] += 1;
    arr_2_par_ref[at + 20][at] = arr_1_par_ref[at];
    *int_glob = 5;
}

/// Compares characters; `ch_1_glob` is the global variable.
#[inline(never)]
pub fn func_1(ch_1_par_val: u8, ch_2_par_val: u8, ch_1_glob: &mut u8) -> Enumeration {
    let ch_1_loc = ch_1_par_val;
    let ch_2_loc = ch_1_loc;
    if ch_2_loc != ch_2_par_val {
        return Enumeration::Ident1;
    }
    // Never run.
    *ch_1_glob = ch_1_loc;
    Enumeration::Ident2
}

/// Compares strings.
#[inline(never)]
pub fn func_2(str_1_par_ref: &Str30, str_2_par_ref: &Str30, globals: &mut Globals) -> bool {
    let mut int_loc: usize = 2;
    let mut ch_loc = 0;
    while int_loc <= 2 {
        let (first, second) = (str_1_par_ref[int_loc], str_2_par_ref[int_loc + 1]);
        if func_1(first, second, &mut globals.ch_1_glob) == Enumeration::Ident1 {
            ch_loc = b'A';
            int_loc += 1;
        }
    }
    if (b'W'..b'Z').contains(&ch_loc) {
        // Never run.
        int_loc = 7;
    }
    if ch_loc == b'R' {
        // Never run.
        return true;
    }
    if str_1_par_ref > str_2_par_ref {
        // Never run.
        int_loc += 7;
        globals.int_glob = int_loc as i32;
        return true;
    }
    false
}

/// Whether it is Ident_3.
#[inline(never)]
fn func_3(enum_par_val: Enumeration) -> bool {
    let enum_loc = enum_par_val;
    enum_loc == Enumeration::Ident3
}
