//! Which accesses to memory a module's compiler vouches for.
//!
//! Each load and store of WebAssembly says how well its address is aligned, which `wasm2c` leaves out of its C. PA-RISC traps
//! where an address is not aligned as well as the access needs; to ask the address takes two instructions and a branch, which
//! is what a translator does worst. So that is done only where the compiler did not know, and the rest is one instruction.

use wasmparser::{FunctionBody, MemArg, Operator, Parser, Payload};

use super::translate::TranslateError;

/// A load or store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    /// As `wasm2c` calls it.
    pub name: &'static str,
    /// Its address may be aligned worse than the machine needs.
    pub loose: bool,
}

/// The machine loads and stores eight bytes as two words: their alignment is enough, as a power of two.
const WORD_ALIGNMENT: u8 = 2;

impl Access {
    fn new(name: &'static str, argument: &MemArg) -> Self {
        Self { name, loose: argument.align < argument.max_align.min(WORD_ALIGNMENT) }
    }

    fn of(operator: &Operator<'_>) -> Option<Self> {
        use Operator as O;
        let (name, argument) = match operator {
            O::I32Load { memarg } => ("i32_load", memarg),
            O::I64Load { memarg } => ("i64_load", memarg),
            O::F32Load { memarg } => ("f32_load", memarg),
            O::F64Load { memarg } => ("f64_load", memarg),
            O::I32Load8S { memarg } => ("i32_load8_s", memarg),
            O::I32Load8U { memarg } => ("i32_load8_u", memarg),
            O::I32Load16S { memarg } => ("i32_load16_s", memarg),
            O::I32Load16U { memarg } => ("i32_load16_u", memarg),
            O::I64Load8S { memarg } => ("i64_load8_s", memarg),
            O::I64Load8U { memarg } => ("i64_load8_u", memarg),
            O::I64Load16S { memarg } => ("i64_load16_s", memarg),
            O::I64Load16U { memarg } => ("i64_load16_u", memarg),
            O::I64Load32S { memarg } => ("i64_load32_s", memarg),
            O::I64Load32U { memarg } => ("i64_load32_u", memarg),
            O::I32Store { memarg } => ("i32_store", memarg),
            O::I64Store { memarg } => ("i64_store", memarg),
            O::F32Store { memarg } => ("f32_store", memarg),
            O::F64Store { memarg } => ("f64_store", memarg),
            O::I32Store8 { memarg } => ("i32_store8", memarg),
            O::I32Store16 { memarg } => ("i32_store16", memarg),
            O::I64Store8 { memarg } => ("i64_store8", memarg),
            O::I64Store16 { memarg } => ("i64_store16", memarg),
            O::I64Store32 { memarg } => ("i64_store32", memarg),
            _ => return None,
        };
        Some(Self::new(name, argument))
    }
}

/// The accesses of each function that a module defines, in the order in which they stand there, without those that `wasm2c`
/// leaves out because nobody reaches them.
///
/// # Errors
/// [`TranslateError::Module`]
pub(super) fn accesses(module: &[u8]) -> Result<Vec<Vec<Access>>, TranslateError> {
    let mut functions = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CodeSectionEntry(body) = payload? {
            functions.push(of_function(&body)?);
        }
    }
    Ok(functions)
}

fn of_function(body: &FunctionBody<'_>) -> Result<Vec<Access>, TranslateError> {
    let mut accesses = Vec::new();
    // Behind what never goes on: how many blocks have begun there that have not ended.
    let mut unreachable: Option<u32> = None;
    for operator in body.get_operators_reader()? {
        let operator = operator?;
        unreachable = match (unreachable, &operator) {
            (None, Operator::Br { .. } | Operator::BrTable { .. } | Operator::Return | Operator::Unreachable) => {
                Some(0)
            }
            (None, _) => None,
            (Some(depth), Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. }) => Some(depth + 1),
            (Some(0), Operator::End | Operator::Else) => None,
            (Some(depth), Operator::End) => Some(depth - 1),
            (depth, _) => depth,
        };
        if unreachable.is_none() {
            accesses.extend(Access::of(&operator));
        }
    }
    Ok(accesses)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with one function of no parameters and this code; it has memory.
    fn module(code: &[u8]) -> Vec<u8> {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        let mut section = |number: u8, bytes: &[u8]| {
            module.extend([number, bytes.len() as u8]);
            module.extend(bytes);
        };
        // Types, functions, memories, code.
        section(1, &[1, 0x60, 0, 0]);
        section(3, &[1, 0]);
        section(5, &[1, 0, 1]);
        let mut body = vec![1, code.len() as u8 + 2, 0];
        body.extend(code);
        body.push(0x0b);
        section(10, &body);
        module
    }

    fn of(code: &[u8]) -> Vec<(&'static str, bool)> {
        let functions = accesses(&module(code)).expect("a module");
        let [function] = &functions[..] else { panic!("one function: {functions:?}") };
        function.iter().map(|access| (access.name, access.loose)).collect()
    }

    const ZERO: [u8; 2] = [0x41, 0];
    const DROP: u8 = 0x1a;

    /// A load from 0, dropped: opcode, alignment.
    fn load(opcode: u8, alignment: u8) -> Vec<u8> {
        [&ZERO[..], &[opcode, alignment, 0, DROP]].concat()
    }

    #[test]
    fn what_is_not_aligned_as_the_machine_needs_is_loose() {
        let words = [load(0x28, 2), load(0x28, 1), load(0x28, 0)].concat();
        assert_eq!(of(&words), [("i32_load", false), ("i32_load", true), ("i32_load", true)]);
        // Two words are loaded one after the other; a byte is always aligned.
        let others =
            [load(0x29, 3), load(0x29, 2), load(0x29, 1), load(0x2d, 0), load(0x2f, 0), load(0x35, 2)].concat();
        let expected = [false, false, true, false, true, false];
        assert_eq!(of(&others).iter().map(|access| access.1).collect::<Vec<_>>(), expected);
        assert_eq!(of(&others)[4].0, "i32_load16_u");
    }

    #[test]
    fn what_nobody_reaches_is_left_out() {
        let mut code = load(0x28, 2);
        // A block: it is left, and begins another one behind that, with a load.
        code.extend([0x02, 0x40, 0x0c, 0, 0x02, 0x40]);
        code.extend(load(0x2d, 0));
        code.extend([0x0b, 0x0b]);
        code.extend(load(0x29, 3));
        // One way of two is left.
        code.extend([&ZERO[..], &[0x04, 0x40, 0x00]].concat());
        code.extend(load(0x2e, 1));
        code.push(0x05);
        code.extend(load(0x2c, 0));
        code.push(0x0b);
        code.push(0x0f);
        code.extend(load(0x28, 2));
        let names: Vec<_> = of(&code).into_iter().map(|access| access.0).collect();
        assert_eq!(names, ["i32_load", "i64_load", "i32_load8_s"]);
    }

    #[test]
    fn what_is_no_module_is_refused() {
        for bytes in [&b""[..], b"\0asm", b"\x7fELF\x01\x02\x01\x03", &module(&[0xff])] {
            assert!(matches!(accesses(bytes), Err(TranslateError::Module(_))), "{bytes:?}");
        }
    }
}
