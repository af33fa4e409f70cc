//! What `wasm2c` writes, with another way to memory.
//!
//! Its loads and stores check the size of memory and copy byte by byte what this machine can load at once; its copies of
//! blocks are wrong on big-endian machines. Both are macros and functions at the front of what it writes, so they can be
//! replaced as a whole. A version that writes something else is noticed, because every place is looked for.

/// Why the translated code cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// It looks different.
    #[error("wasm2c's output has no {what:?}; Pollux knows that of wabt 1.0.32 (see `wasm2c --version`)")]
    Missing {
        /// What was looked for.
        what: &'static str,
    },
}

/// What is replaced: from the first text up to the second.
const REPLACED: [(&str, &str, &str); 2] = [
    ("#if WABT_BIG_ENDIAN\n", "DEFINE_LOAD(i32_load, u32, u32, u32)", "#include \"accessors.h\"\n"),
    ("static inline void memory_fill(", "typedef struct {\n  uint32_t func_type_index;", "#include \"blocks.h\"\n"),
];

/// Takes the includes of a C library out and puts our own accessors in; the platform's part of the module goes behind.
pub(super) fn rewrite(code: &str, with: &str) -> Result<String, TranslateError> {
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
    text.push_str(&format!("\n#include \"{with}\"\n"));
    Ok(text)
}

/// Without `#include <…>`.
fn without_library(code: &str) -> String {
    code.lines().filter(|line| !line.starts_with("#include <")).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "#include <math.h>\n#include \"m.h\"\nbefore\n#if WABT_BIG_ENDIAN\nslow\n#endif\n\
        DEFINE_LOAD(i32_load, u32, u32, u32)\nbetween\nstatic inline void memory_fill(wrong)\n\
        typedef struct {\n  uint32_t func_type_index;\nafter\n";

    #[test]
    fn accessors_and_blocks_are_replaced_and_the_rest_is_kept() {
        let text = rewrite(CODE, "guest.c").expect("as wasm2c writes it");
        assert_eq!(
            text,
            "#include \"m.h\"\nbefore\n#include \"accessors.h\"\nDEFINE_LOAD(i32_load, u32, u32, u32)\nbetween\n\
             #include \"blocks.h\"\ntypedef struct {\n  uint32_t func_type_index;\nafter\n\n#include \"guest.c\"\n"
        );
    }

    #[test]
    fn another_output_is_refused() {
        for (from, to, _) in REPLACED {
            for what in [from, to] {
                assert_eq!(rewrite(&CODE.replace(what, ""), "guest.c"), Err(TranslateError::Missing { what }));
            }
        }
    }
}
