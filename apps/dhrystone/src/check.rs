//! The values that Dhrystone documents for the end.

use core::fmt;
use core::str;

use crate::benchmark::{Benchmark, COUNT_BASE, FIRST_STRING, SECOND_STRING, SOME_STRING};
use crate::records::{Address, Enumeration, Pointer, Record, Str30};

/// A value of one of the benchmark's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// An integer, or what C prints as one: truth values and enumerations.
    Int(i32),
    /// A character.
    Char(u8),
    /// A string.
    Text(Str30),
    /// A pointer.
    Pointer(Pointer),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Char(value) => write!(f, "{:?}", char::from(*value)),
            Self::Text(value) => match str::from_utf8(value) {
                Ok(text) => write!(f, "{text:?}"),
                Err(_) => write!(f, "{value:?}"),
            },
            Self::Pointer(None) => f.write_str("null"),
            Self::Pointer(Some(Address::First)) => f.write_str("Next_Ptr_Glob"),
            Self::Pointer(Some(Address::Second)) => f.write_str("Ptr_Glob"),
        }
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl From<Enumeration> for Value {
    fn from(value: Enumeration) -> Self {
        Self::Int(value as i32)
    }
}

impl From<u8> for Value {
    fn from(value: u8) -> Self {
        Self::Char(value)
    }
}

impl From<Str30> for Value {
    fn from(value: Str30) -> Self {
        Self::Text(value)
    }
}

impl From<Pointer> for Value {
    fn from(value: Pointer) -> Self {
        Self::Pointer(value)
    }
}

/// A variable that has not the value it should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The variable, by its published name.
    pub field: &'static str,
    /// What it is.
    pub is: Value,
    /// What it should be.
    pub expected: Value,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, expected {}", self.field, self.is, self.expected)
    }
}

impl core::error::Error for Mismatch {}

fn expect(field: &'static str, is: impl Into<Value>, expected: impl Into<Value>) -> Result<(), Mismatch> {
    let (is, expected) = (is.into(), expected.into());
    if is == expected { Ok(()) } else { Err(Mismatch { field, is, expected }) }
}

impl Benchmark {
    /// Compares every variable that the published program prints with its documented value, in that order.
    ///
    /// # Errors
    /// The first that differs.
    pub fn check(&self) -> Result<(), Mismatch> {
        self.check_globals()?;
        self.check_records()?;
        self.check_locals()
    }

    fn check_globals(&self) -> Result<(), Mismatch> {
        let globals = &self.globals;
        expect("Int_Glob", globals.int_glob, 5)?;
        expect("Bool_Glob", globals.bool_glob, 1)?;
        expect("Ch_1_Glob", globals.ch_1_glob, b'A')?;
        expect("Ch_2_Glob", globals.ch_2_glob, b'B')?;
        expect("Arr_1_Glob[8]", globals.arr_1_glob[8], 7)?;
        expect("Arr_2_Glob[8][7]", globals.arr_2_glob[8][7], self.runs.wrapping_add(COUNT_BASE))
    }

    /// The published program leaves it to the reader that both records point at the same one.
    fn check_records(&self) -> Result<(), Mismatch> {
        let globals = &self.globals;
        let record = globals.heap.at(globals.ptr_glob);
        expect("Ptr_Glob->Ptr_Comp", record.ptr_comp, globals.next_ptr_glob)?;
        expect("Ptr_Glob->Discr", record.discr(), 0)?;
        expect("Ptr_Glob->Enum_Comp", record.var_1().enum_comp, 2)?;
        expect("Ptr_Glob->Int_Comp", record.var_1().int_comp, 17)?;
        expect("Ptr_Glob->Str_Comp", record.var_1().str_comp, SOME_STRING)?;
        let next: &Record = globals.heap.at(globals.next_ptr_glob);
        expect("Next_Ptr_Glob->Ptr_Comp", next.ptr_comp, globals.next_ptr_glob)?;
        expect("Next_Ptr_Glob->Discr", next.discr(), 0)?;
        expect("Next_Ptr_Glob->Enum_Comp", next.var_1().enum_comp, 1)?;
        expect("Next_Ptr_Glob->Int_Comp", next.var_1().int_comp, 18)?;
        expect("Next_Ptr_Glob->Str_Comp", next.var_1().str_comp, SOME_STRING)
    }

    fn check_locals(&self) -> Result<(), Mismatch> {
        let locals = &self.locals;
        expect("Int_1_Loc", locals.int_1_loc, 5)?;
        expect("Int_2_Loc", locals.int_2_loc, 13)?;
        expect("Int_3_Loc", locals.int_3_loc, 7)?;
        expect("Enum_Loc", locals.enum_loc, 1)?;
        expect("Str_1_Loc", locals.str_1_loc, FIRST_STRING)?;
        expect("Str_2_Loc", locals.str_2_loc, SECOND_STRING)
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::{String, ToString};

    use super::*;
    use crate::records::Variant;

    fn after(runs: i32) -> Benchmark {
        let mut benchmark = Benchmark::new();
        benchmark.run(runs);
        benchmark
    }

    #[test]
    fn the_documented_values_come_out_whatever_the_number_of_runs() {
        for runs in [1, 2, 3, 10, 99, 1000, 50_000] {
            assert_eq!(after(runs).check(), Ok(()), "{runs} runs");
        }
    }

    #[test]
    fn stretches_add_up() {
        let mut benchmark = after(7);
        benchmark.run(0);
        benchmark.run(5);
        assert_eq!(benchmark.check(), Ok(()));
        assert_eq!(benchmark.globals.arr_2_glob[8][7], 22);
    }

    #[test]
    fn without_a_run_the_values_are_wrong() {
        let mismatch = after(0).check().expect_err("nothing ran");
        assert_eq!(mismatch.to_string(), "Int_Glob is 0, expected 5");
    }

    #[test]
    fn a_run_that_was_not_made_is_noticed() {
        let mut benchmark = after(4);
        benchmark.runs += 1;
        let mismatch = benchmark.check().expect_err("a run is missing");
        assert_eq!(mismatch.to_string(), "Arr_2_Glob[8][7] is 14, expected 15");
    }

    /// Damages one variable of a finished benchmark; returns what the check then says.
    fn report(damage: impl FnOnce(&mut Benchmark)) -> String {
        let mut benchmark = after(3);
        damage(&mut benchmark);
        benchmark.check().expect_err("a value is wrong").to_string()
    }

    #[test]
    fn a_wrong_global_is_reported() {
        assert_eq!(report(|b| b.globals.int_glob = 6), "Int_Glob is 6, expected 5");
        assert_eq!(report(|b| b.globals.bool_glob = false), "Bool_Glob is 0, expected 1");
        assert_eq!(report(|b| b.globals.ch_1_glob = b'B'), "Ch_1_Glob is 'B', expected 'A'");
        assert_eq!(report(|b| b.globals.ch_2_glob = 0), "Ch_2_Glob is '\\0', expected 'B'");
        assert_eq!(report(|b| b.globals.arr_1_glob[8] = -1), "Arr_1_Glob[8] is -1, expected 7");
        assert_eq!(report(|b| b.globals.arr_2_glob[8][7] += 1), "Arr_2_Glob[8][7] is 14, expected 13");
    }

    /// The same for a variable of the record that `Ptr_Glob` or `Next_Ptr_Glob` points at.
    fn report_record(next: bool, damage: impl FnOnce(&mut Record)) -> String {
        report(|b| {
            let pointer = if next { b.globals.next_ptr_glob } else { b.globals.ptr_glob };
            damage(b.globals.heap.at_mut(pointer));
        })
    }

    #[test]
    fn a_wrong_component_is_reported() {
        let other = Variant::Var3 { ch_1_comp: b'A', ch_2_comp: b'B' };
        for (next, name, enum_comp, int_comp) in [(false, "Ptr_Glob", 2, 17), (true, "Next_Ptr_Glob", 1, 18)] {
            let report = |damage: fn(&mut Record)| report_record(next, damage);
            assert_eq!(report(|r| r.ptr_comp = None), format!("{name}->Ptr_Comp is null, expected Next_Ptr_Glob"));
            assert_eq!(
                report_record(next, |r| r.variant = other),
                format!("{name}->Discr is 2, expected 0"),
                "no component of another variant is looked at"
            );
            assert_eq!(
                report(|r| r.var_1_mut().enum_comp = Enumeration::Ident5),
                format!("{name}->Enum_Comp is 4, expected {enum_comp}")
            );
            assert_eq!(report(|r| r.var_1_mut().int_comp = 40), format!("{name}->Int_Comp is 40, expected {int_comp}"));
            assert_eq!(
                report(|r| r.var_1_mut().str_comp[0] = b'd'),
                format!(
                    "{name}->Str_Comp is \"dHRYSTONE PROGRAM, SOME STRING\", expected \"DHRYSTONE PROGRAM, SOME STRING\""
                )
            );
        }
    }

    #[test]
    fn a_wrong_local_is_reported() {
        assert_eq!(report(|b| b.locals.int_1_loc = 1), "Int_1_Loc is 1, expected 5");
        assert_eq!(report(|b| b.locals.int_2_loc = 3), "Int_2_Loc is 3, expected 13");
        assert_eq!(report(|b| b.locals.int_3_loc = 0), "Int_3_Loc is 0, expected 7");
        assert_eq!(report(|b| b.locals.enum_loc = Enumeration::Ident1), "Enum_Loc is 0, expected 1");
        assert_eq!(
            report(|b| b.locals.str_1_loc = SECOND_STRING),
            "Str_1_Loc is \"DHRYSTONE PROGRAM, 2'ND STRING\", expected \"DHRYSTONE PROGRAM, 1'ST STRING\""
        );
        assert!(report(|b| b.locals.str_2_loc[29] = 0xff).starts_with("Str_2_Loc is [68, 72, "), "not text");
    }
}
