//! What `wasm2c` writes, with another way to memory, and in parts that are compiled side by side.
//!
//! Its loads and stores check the size of memory and copy byte by byte what this machine can load at once; its copies of
//! blocks are wrong on big-endian machines. Both are macros and functions at the front of what it writes, so they can be
//! replaced as a whole. Functions follow, each with its end at the start of a line. A version that writes something else is
//! noticed, because every place is looked for, and every access compared with the module's.

use super::alignment::Access;

/// Why the translated code cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// It looks different.
    #[error("wasm2c's output has no {what:?}; Pollux knows that of wabt 1.0.32 (see `wasm2c --version`)")]
    Missing {
        /// What was looked for.
        what: &'static str,
    },
    /// It has other loads and stores than the module.
    #[error(
        "wasm2c's output has {got} where the module's function {function} has {expected}; Pollux knows that of wabt 1.0.32 \
         (see `wasm2c --version`)"
    )]
    Access {
        /// Which function, of those that the module defines.
        function: usize,
        /// What the module has.
        expected: String,
        /// What the output has.
        got: String,
    },
    /// The compiler has written what is no module.
    #[error("the compiler's output is no WebAssembly: {0}")]
    Module(String),
}

impl From<wasmparser::BinaryReaderError> for TranslateError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::Module(error.to_string())
    }
}

/// A module as C.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Translated {
    /// What every part begins with: types, accessors, declarations.
    pub header: String,
    /// The parts, the module's data and the platform's share in the first. They include the header as [`HEADER`].
    pub parts: Vec<String>,
}

/// The name of the header.
pub(super) const HEADER: &str = "parts.h";
/// Bytes of a part's functions, roughly. What the compiler needs for a part's declarations is little beside it.
const PART_BYTES: usize = 1_200_000;

/// What is replaced: from the first text up to the second.
const REPLACED: [(&str, &str, &str); 2] = [
    ("#if WABT_BIG_ENDIAN\n", "DEFINE_LOAD(i32_load, u32, u32, u32)", "#include \"accessors.h\"\n"),
    ("static inline void memory_fill(", "typedef struct {\n  uint32_t func_type_index;", "#include \"blocks.h\"\n"),
];
/// What begins the module's own state, behind the accessors.
const STATE: &str = "static bool s_module_initialized = false;";
/// What begins the declarations of functions, and the definition of types of functions before them.
const TYPES: &str = "static u32 func_types[";
/// What the body of a function begins with, behind its variables.
const PROLOGUE: &str = "\n  FUNC_PROLOGUE;\n";
/// What its definition begins with, on a line of its own.
const START: &str = "\nstatic ";
/// What ends a definition.
const END: &str = "\n}\n";
/// What a load or store begins with, behind its name.
const MEMORY: &str = "(&instance->w2c_memory";
/// What an access that may be aligned badly has behind its name.
const LOOSE: &str = "_loose";

/// Takes the includes of a C library out and puts our own accessors in; the platform's part of the module, `with`, goes behind.
/// `accesses` are the module's.
pub(super) fn rewrite(code: &str, with: &str, accesses: &[Vec<Access>]) -> Result<Translated, TranslateError> {
    let code = replaced(code)?;
    let (front, rest) = split_at(&code, STATE)?;
    let (initialised, rest) = split_at(rest, TYPES)?;
    let types_end = rest.find(END).ok_or(TranslateError::Missing { what: END })? + END.len();
    let (types, rest) = rest.split_at(types_end);
    let (declarations, data) = declarations(rest);
    let (data, functions, tail) = functions(data, accesses)?;

    let count = types[TYPES.len()..].split(']').next().unwrap_or_default();
    let header = format!("{front}extern u32 func_types[{count}];\n{declarations}");
    let include = format!("#include \"{HEADER}\"\n");
    let types = types.replacen("static ", "", 1);
    let mut parts = vec![format!("{include}{initialised}{types}{data}{tail}\n#include \"{with}\"\n")];
    for function in functions {
        match parts.last_mut() {
            Some(part) if parts_room(part) => part.push_str(&function),
            _ => parts.push(format!("{include}{function}")),
        }
    }
    Ok(Translated { header, parts })
}

fn parts_room(part: &str) -> bool {
    part.len() < PART_BYTES
}

fn split_at<'a>(code: &'a str, what: &'static str) -> Result<(&'a str, &'a str), TranslateError> {
    code.find(what).map(|place| code.split_at(place)).ok_or(TranslateError::Missing { what })
}

fn replaced(code: &str) -> Result<String, TranslateError> {
    let mut text = String::with_capacity(code.len());
    let mut rest = code;
    for (from, to, instead) in REPLACED {
        let start = rest.find(from).ok_or(TranslateError::Missing { what: from })?;
        let bytes = rest[start..].find(to).ok_or(TranslateError::Missing { what: to })?;
        text.push_str(&without_library(&rest[..start]));
        text.push_str(instead);
        rest = &rest[start + bytes..];
    }
    text.push_str(rest);
    Ok(text)
}

/// Without `#include <…>`.
fn without_library(code: &str) -> String {
    code.lines().filter(|line| !line.starts_with("#include <")).flat_map(|line| [line, "\n"]).collect()
}

/// The declarations of functions, as other parts can use them, and what follows them.
fn declarations(code: &str) -> (String, &str) {
    let mut declarations = String::new();
    let mut rest = code;
    while let Some((line, next)) = rest.split_once('\n') {
        match line.strip_prefix("static ").filter(|line| line.ends_with(");")) {
            Some(line) => declarations.extend([line, "\n"]),
            None if line.is_empty() => {}
            None => break,
        }
        rest = next;
    }
    (declarations, rest)
}

/// What stands before the functions, the functions as other parts can call them, and what stands behind.
fn functions<'a>(code: &'a str, accesses: &[Vec<Access>]) -> Result<(&'a str, Vec<String>, &'a str), TranslateError> {
    let mut functions = Vec::with_capacity(accesses.len());
    let (mut data, mut rest) = ("", code);
    for (number, accesses) in accesses.iter().enumerate() {
        let body = rest.find(PROLOGUE).ok_or(TranslateError::Missing { what: PROLOGUE })?;
        let start = rest[..body].rfind(START).ok_or(TranslateError::Missing { what: START })? + 1;
        if number == 0 {
            data = &rest[..start];
        } else if !rest[..start].trim().is_empty() {
            return Err(TranslateError::Missing { what: "function behind a function" });
        }
        let end = rest[body..].find(END).ok_or(TranslateError::Missing { what: END })? + body + END.len();
        let function = rest[start..end].trim_start_matches("static ");
        functions.push(with_loose_accesses(function, number, accesses)?);
        // With the end of its last line, which is the start of the next.
        rest = &rest[end - 1..];
    }
    Ok((data, functions, rest))
}

/// Marks the accesses whose address may be aligned badly.
fn with_loose_accesses(text: &str, function: usize, accesses: &[Access]) -> Result<String, TranslateError> {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    let mut rest = text;
    let mut expected = accesses.iter();
    let differs = |expected: Option<&Access>, got: Option<&str>| TranslateError::Access {
        function,
        expected: expected.map_or("none", |access| access.name).to_owned(),
        got: got.unwrap_or("none").to_owned(),
    };
    while let Some(place) = rest.find(MEMORY) {
        let (before, behind) = rest.split_at(place);
        out.push_str(before);
        let name = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        // Blocks of memory, and its size, are reached by other functions.
        if name.contains("_load") || name.contains("_store") {
            let access = expected.next().filter(|access| access.name == name);
            let access = access.ok_or_else(|| differs(None, Some(name)))?;
            out.push_str(if access.loose { LOOSE } else { "" });
        }
        out.push_str(MEMORY);
        rest = &behind[MEMORY.len()..];
    }
    out.push_str(rest);
    match expected.next() {
        Some(more) => Err(differs(Some(more), None)),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "#include <math.h>\n#include \"m.h\"\nbefore\n#if WABT_BIG_ENDIAN\nslow\n#endif\n\
        DEFINE_LOAD(i32_load, u32, u32, u32)\nbetween\nstatic inline void memory_fill(wrong)\n\
        typedef struct {\n  uint32_t func_type_index;\nafter\n\
        static bool s_module_initialized = false;\n\nstatic u32 func_types[2];\n\nstatic void init_func_types(void) {\n  x;\n}\n\n\
        static u32 w2c_f(Z_m_instance_t*, u32);\nstatic void w2c_g(Z_m_instance_t*);\n\nstatic const u8 data[] = {\n  1,\n};\n\n\
        static u32 w2c_f(Z_m_instance_t* instance, u32 w2c_p0) {\n  u32 w2c_l1 = 0;\n  FUNC_PROLOGUE;\n  \
        w2c_i0 = i32_load(&instance->w2c_memory, (u64)(w2c_i0));\n  w2c_i0 = i32_load(&instance->w2c_memory, (u64)(w2c_i0) + 8u);\n}\n\n\
        static void w2c_g(Z_m_instance_t* instance) {\n  FUNC_PROLOGUE;\n  memory_fill(&instance->w2c_memory, 0, 0, 0);\n  \
        i64_store(&instance->w2c_memory, (u64)(w2c_i0), w2c_j1);\n}\n\nvoid Z_mZ_g(Z_m_instance_t* instance) {\n  w2c_g(instance);\n}\n";

    fn accesses() -> Vec<Vec<Access>> {
        let access = |name, loose| Access { name, loose };
        vec![vec![access("i32_load", false), access("i32_load", true)], vec![access("i64_store", true)]]
    }

    #[test]
    fn accessors_and_blocks_are_replaced_and_functions_are_everybodys() {
        let translated = rewrite(CODE, "guest.c", &accesses()).expect("as wasm2c writes it");
        assert_eq!(
            translated.header,
            "#include \"m.h\"\nbefore\n#include \"accessors.h\"\nDEFINE_LOAD(i32_load, u32, u32, u32)\nbetween\n\
             #include \"blocks.h\"\ntypedef struct {\n  uint32_t func_type_index;\nafter\n\
             extern u32 func_types[2];\nu32 w2c_f(Z_m_instance_t*, u32);\nvoid w2c_g(Z_m_instance_t*);\n"
        );
        let [part] = &translated.parts[..] else { panic!("one part: {translated:?}") };
        assert!(
            part.starts_with("#include \"parts.h\"\nstatic bool s_module_initialized = false;\n\nu32 func_types[2];\n")
        );
        assert!(part.contains("static const u8 data[] = {\n  1,\n};\n") && part.contains("\n#include \"guest.c\"\n"));
        assert!(
            part.contains("\nu32 w2c_f(Z_m_instance_t* instance, u32 w2c_p0) {\n") && part.contains("void Z_mZ_g(")
        );
        // What may not be aligned is marked, and nothing else.
        assert_eq!(part.matches("i32_load(&").count(), 1);
        assert!(part.contains("i32_load_loose(&instance->w2c_memory, (u64)(w2c_i0) + 8u)"));
        assert!(part.contains("i64_store_loose(&") && part.contains("memory_fill(&"));
    }

    #[test]
    fn a_large_module_is_cut_into_parts_with_every_function_once() {
        let (front, rest) = CODE.split_once("static u32 w2c_f(Z_m_instance_t* instance").expect("a function");
        let (function, tail) = rest.split_once("\n}\n").expect("its end");
        let filler = "  w2c_i0 = 0;\n".repeat(PART_BYTES / 40);
        let mut code = front.to_owned();
        for number in 0..7 {
            let function = function.replacen("\n  w2c_i0", &format!("\n{filler}  w2c_i0"), 1);
            code.push_str(&format!("static u32 w2c_f{number}(Z_m_instance_t* instance{function}\n}}\n"));
        }
        code.push_str(tail);
        let mut accesses = accesses();
        let many = std::iter::repeat_n(accesses[0].clone(), 6);
        accesses.splice(0..0, many);
        let translated = rewrite(&code, "guest.c", &accesses).expect("as wasm2c writes it");
        assert_eq!(translated.parts.len(), 3);
        for number in 0..7 {
            let definition = format!("\nu32 w2c_f{number}(");
            assert_eq!(translated.parts.iter().map(|part| part.matches(&definition).count()).sum::<usize>(), 1);
        }
        assert!(translated.parts.iter().all(|part| part.starts_with("#include \"parts.h\"\n")));
    }

    #[test]
    fn another_output_is_refused() {
        for (from, to, _) in REPLACED {
            for what in [from, to] {
                let refused = rewrite(&CODE.replace(what, ""), "guest.c", &accesses());
                assert_eq!(refused, Err(TranslateError::Missing { what }));
            }
        }
        for what in [STATE, TYPES, PROLOGUE] {
            let refused = rewrite(&CODE.replace(what, ""), "guest.c", &accesses());
            assert_eq!(refused, Err(TranslateError::Missing { what }));
        }
    }

    #[test]
    fn accesses_that_are_not_the_modules_are_refused() {
        let refused = |change: &dyn Fn(&mut Vec<Vec<Access>>)| {
            let mut accesses = accesses();
            change(&mut accesses);
            matches!(rewrite(CODE, "guest.c", &accesses), Err(TranslateError::Access { .. }))
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|accesses| accesses[0][0].name = "i64_load"));
        assert!(refused(&|accesses| accesses[1].clear()));
        assert!(refused(&|accesses| {
            let more = accesses[0][0];
            accesses[1].push(more);
        }));
    }
}
