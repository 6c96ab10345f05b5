//! What a component may be made of: counted in one cheap pass, before anything compiles it.
//!
//! Invariant: what passes can be read by the compiler on an ordinary stack, and costs it no more than
//! its size and these numbers allow. Nothing here validates: the compiler says what is wrong.
//!
//! Types of components nest, and reading them recurses: their depth is bounded by looking at the bytes,
//! since to read them would be to recurse.

use wasmparser::{Encoding, Parser, Payload};

/// Components and modules inside each other: tools make three.
const DEPTH_MAX: u64 = 8;

/// Tools that link libraries when they build make one for each, and a few between them.
const MODULES_MAX: u64 = 500;

/// An agent exports one interface; worlds of others a few dozen things.
const EXPORTS_MAX: u64 = 1_000;
const IMPORTS_MAX: u64 = 1_000;

/// Of all modules: several times what interpreters with their libraries have.
const FUNCTIONS_MAX: u64 = 200_000;

/// Of one function's code: compiling takes longer than in proportion. Interpreters' loops, the longest
/// there are, have a tenth.
const FUNCTION_BYTES_MAX: u64 = 1024 * 1024;

/// In core modules and components.
const TYPES_MAX: u64 = 100_000;

/// Types of components say much in few bytes. Agents have some kilobytes of them.
const TYPE_BYTES_MAX: u64 = 1024 * 1024;

/// Types declared in types, in one section: tools make one level. Reading takes some kilobytes of stack for each.
const NESTED_TYPES_MAX: u64 = 32;

/// Everything else that is counted: aliases, instances, segments, globals, a module's exports.
const ITEMS_MAX: u64 = 1_000_000;

/// Sections may be empty, and then they are not counted by what is in them.
const SECTIONS_MAX: u64 = 100_000;

/// Of what there is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has more than {max} {what}")]
pub struct TooMuch {
    pub what: &'static str,
    pub max: u64,
}

/// Refuse what has too much of anything. Bytes that are not WebAssembly pass: the compiler tells.
pub fn check(bytes: &[u8]) -> Result<(), TooMuch> {
    let mut shape = Shape::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let Ok(payload) = payload else {
            return Ok(());
        };
        shape.add(&payload, bytes)?;
    }
    Ok(())
}

/// What was counted so far.
#[derive(Debug, Default)]
struct Shape {
    /// Of what is being read, from outside in: whether it is a core module.
    within: Vec<bool>,
    modules: u64,
    exports: u64,
    imports: u64,
    functions: u64,
    types: u64,
    type_bytes: u64,
    items: u64,
    sections: u64,
}

impl Shape {
    fn add(&mut self, payload: &Payload<'_>, bytes: &[u8]) -> Result<(), TooMuch> {
        count(
            &mut self.sections,
            1,
            "sections and functions",
            SECTIONS_MAX + FUNCTIONS_MAX,
        )?;
        let is_core = self.within.last() == Some(&true);
        match payload {
            Payload::Version { encoding, .. } => {
                self.within.push(*encoding == Encoding::Module);
                let depth = self.within.len() as u64;
                at_most(depth, "levels of components inside each other", DEPTH_MAX)
            }
            Payload::End(_) => {
                self.within.pop();
                Ok(())
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                let what = "modules and components";
                count(&mut self.modules, 1, what, MODULES_MAX)
            }
            Payload::TypeSection(types) => self.add_types(types.count()),
            Payload::CoreTypeSection(types) => self.add_types(types.count()),
            Payload::ComponentTypeSection(types) => {
                self.add_types(types.count())?;
                let section = bytes.get(types.range()).unwrap_or_default();
                let (length, what) = (section.len() as u64, "bytes of types");
                count(&mut self.type_bytes, length, what, TYPE_BYTES_MAX)?;
                at_most(declared(section), "types inside types", NESTED_TYPES_MAX)
            }
            Payload::ComponentExportSection(exports) => {
                let (more, what) = (exports.count().into(), "exports");
                count(&mut self.exports, more, what, EXPORTS_MAX)
            }
            Payload::ComponentImportSection(imports) => {
                let (more, what) = (imports.count().into(), "imports");
                count(&mut self.imports, more, what, IMPORTS_MAX)
            }
            Payload::FunctionSection(functions) if is_core => {
                let (more, what) = (functions.count().into(), "functions");
                count(&mut self.functions, more, what, FUNCTIONS_MAX)
            }
            Payload::CodeSectionEntry(body) => {
                let length = body.range().len() as u64;
                at_most(length, "bytes in one function", FUNCTION_BYTES_MAX)
            }
            other => count(&mut self.items, items(other), "items", ITEMS_MAX),
        }
    }

    fn add_types(&mut self, more: u32) -> Result<(), TooMuch> {
        count(&mut self.types, more.into(), "types", TYPES_MAX)
    }
}

/// How many things a section of the other kinds says it holds.
fn items(payload: &Payload<'_>) -> u64 {
    let count = match payload {
        Payload::ImportSection(it) => it.count(),
        Payload::ExportSection(it) => it.count(),
        Payload::TableSection(it) => it.count(),
        Payload::MemorySection(it) => it.count(),
        Payload::TagSection(it) => it.count(),
        Payload::GlobalSection(it) => it.count(),
        Payload::ElementSection(it) => it.count(),
        Payload::DataSection(it) => it.count(),
        Payload::InstanceSection(it) => it.count(),
        Payload::ComponentInstanceSection(it) => it.count(),
        Payload::ComponentAliasSection(it) => it.count(),
        Payload::ComponentCanonicalSection(it) => it.count(),
        _ => 0,
    };
    u64::from(count)
}

/// At least as many types as are declared inside others, and so no fewer than they are deep: such a
/// declaration begins with 1 for a type, and the type with 0x41 or 0x42 for a component or an instance.
fn declared(section: &[u8]) -> u64 {
    let pairs = section.windows(2);
    pairs
        .filter(|pair| matches!(pair, [1, 0x41 | 0x42]))
        .count() as u64
}

fn count(so_far: &mut u64, more: u64, what: &'static str, max: u64) -> Result<(), TooMuch> {
    *so_far = so_far.saturating_add(more);
    at_most(*so_far, what, max)
}

fn at_most(number: u64, what: &'static str, max: u64) -> Result<(), TooMuch> {
    if number > max {
        return Err(TooMuch { what, max });
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, what: &str) {
        let bytes = wat::parse_str(text).expect("the test's WAT is valid");
        let refused = check(&bytes).expect_err("it has too much");
        assert_eq!(refused.what, what, "{refused}");
    }

    fn fits(text: &str) {
        let bytes = wat::parse_str(text).expect("the test's WAT is valid");
        assert_eq!(check(&bytes), Ok(()));
    }

    fn times(count: u64, part: impl Fn(u64) -> String) -> String {
        (0..count).map(part).collect()
    }

    fn component(inside: &str) -> String {
        format!("(component {inside})")
    }

    #[test]
    fn each_bound_is_met_and_passed() {
        let nested = |depth: u64| {
            let (open, close) = (
                "(component ".repeat(depth as usize),
                ")".repeat(depth as usize),
            );
            format!("{open}{close}")
        };
        fits(&nested(DEPTH_MAX));
        refused(
            &nested(DEPTH_MAX + 1),
            "levels of components inside each other",
        );

        let modules = |count| component(&times(count, |_| "(core module)".into()));
        fits(&modules(MODULES_MAX));
        refused(&modules(MODULES_MAX + 1), "modules and components");

        let exports = |count| {
            let exports = times(count, |at| format!("(export \"e{at}\" (type $t))"));
            component(&format!("(type $t (record (field \"a\" u8))) {exports}"))
        };
        fits(&exports(EXPORTS_MAX));
        refused(&exports(EXPORTS_MAX + 1), "exports");

        let imports = |count| component(&times(count, |at| format!("(import \"i{at}\" (func))")));
        fits(&imports(IMPORTS_MAX));
        refused(&imports(IMPORTS_MAX + 1), "imports");

        let functions = |count| component(&format!("(core module {})", "(func)".repeat(count)));
        fits(&functions(FUNCTIONS_MAX as usize));
        refused(&functions(FUNCTIONS_MAX as usize + 1), "functions");

        // Its size and its end are part of it.
        let body = |count| component(&format!("(core module (func {}))", "nop ".repeat(count)));
        fits(&body(FUNCTION_BYTES_MAX as usize - 2));
        refused(
            &body(FUNCTION_BYTES_MAX as usize - 1),
            "bytes in one function",
        );

        let types = |count| component(&format!("(core module {})", "(type (func))".repeat(count)));
        fits(&types(TYPES_MAX as usize));
        refused(&types(TYPES_MAX as usize + 1), "types");

        let enums = |count| {
            component(&times(count, |_| {
                format!(
                    "(type (enum {}))",
                    times(1_000, |at| format!("\"case-{at}\" "))
                )
            }))
        };
        fits(&enums(50));
        refused(&enums(150), "bytes of types");

        let globals = |count| {
            let globals = "(global i32 (i32.const 0))".repeat(count);
            component(&format!("(core module {globals})"))
        };
        fits(&globals(1_000));
        refused(&globals(ITEMS_MAX as usize + 1), "items");
    }

    /// As many as pass.
    pub(in crate::runtime) fn nested_most() -> Vec<u8> {
        nested(NESTED_TYPES_MAX)
    }

    /// A component with one type that has so many others inside each other.
    fn nested(depth: u64) -> Vec<u8> {
        let mut section = vec![1];
        for _ in 1..depth {
            section.extend([0x42, 1, 1]);
        }
        section.extend([0x42, 0]);
        let mut bytes = vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0, 7];
        let mut length = section.len();
        while length >= 0x80 {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(section);
        bytes
    }

    /// The last is deep enough to overflow any stack, were it read.
    #[test]
    fn types_without_an_end_are_refused_unread() {
        // The section's own count of one looks like a declaration.
        assert_eq!(check(&nested(NESTED_TYPES_MAX)), Ok(()));
        for depth in [NESTED_TYPES_MAX + 1, 1_000, 300_000] {
            let refused = check(&nested(depth)).unwrap_err();
            assert_eq!(refused.what, "types inside types", "{depth}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_compiler() {
        assert_eq!(check(b""), Ok(()));
        assert_eq!(check(b"no"), Ok(()));
        let bytes = wat::parse_str(component("(core module (func))")).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(check(&bytes[..end]), Ok(()));
        }
    }

    #[test]
    fn sections_of_nothing_are_counted() {
        let mut bytes = vec![0, b'a', b's', b'm', 0x0d, 0, 1, 0];
        for _ in 0..=SECTIONS_MAX + FUNCTIONS_MAX {
            // A custom section with an empty name.
            bytes.extend([0, 1, 0]);
        }
        assert_eq!(check(&bytes).unwrap_err().what, "sections and functions");
    }
}
