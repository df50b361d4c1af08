//! The BPF object must hold no panic path: a panic ends in an endless loop, which a kernel refuses only when it can
//! reach it, so that one kernel may load what another does not.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind};

/// `goto -1`: what an empty `loop {}` compiles to.
const GOTO_SELF: [u8; 8] = [0x05, 0, 0xff, 0xff, 0, 0, 0, 0];

/// Fails with the names of the functions that panic.
///
/// # Errors
/// When the object cannot be read or some code of it can panic.
pub(crate) fn no_panic_path(path: &Path) -> Result<()> {
    let data = fs::read(path).with_context(|| format!("cannot read the BPF object {}", path.display()))?;
    let found = panic_paths(&data).with_context(|| format!("not a BPF object: {}", path.display()))?;
    if !found.is_empty() {
        bail!(
            "the BPF programs can panic: {}\nin {}.\nRemedy: replace what can fail (indexing, division, unwrap, \
             checked arithmetic) by get(), wrapping or saturating operations; `llvm-objdump -dr` shows the callers",
            found.join(", "),
            path.display()
        );
    }
    Ok(())
}

fn panic_paths(data: &[u8]) -> Result<Vec<String>> {
    let object: ElfFile64 = ElfFile64::parse(data)?;
    let mut found = Vec::new();
    for symbol in object.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text) {
        let name = String::from_utf8_lossy(symbol.name_bytes()?);
        if name.contains("panic") || name.contains("rust_begin_unwind") {
            found.push(name.into_owned());
        }
    }
    for section in object.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code = section.data()?;
        let loops = code
            .chunks_exact(GOTO_SELF.len())
            .enumerate()
            .filter(|(_, instruction)| *instruction == GOTO_SELF);
        for (number, _) in loops {
            let at = (number * GOTO_SELF.len()) as u64;
            let holder = object.symbols().find(|symbol| {
                symbol.kind() == SymbolKind::Text
                    && symbol.section_index() == Some(section.index())
                    && (symbol.address()..symbol.address() + symbol.size()).contains(&at)
            });
            let holder = holder.and_then(|symbol| symbol.name().ok()).unwrap_or("no symbol");
            if !found.iter().any(|name| name == holder) {
                found.push(format!(
                    "{holder} (endless loop at {at:#x} of section {})",
                    section.name().unwrap_or("?")
                ));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object, Symbol, SymbolSection};
    use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolScope};

    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

    /// An object with one function per (name, code), all in one section.
    fn object_of(functions: &[(&str, &[[u8; 8]])]) -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let section = object.add_section(Vec::new(), b"fentry/tcp_connect".to_vec(), SectionKind::Text);
        for (name, code) in functions {
            let code = code.concat();
            let value = object.append_section_data(section, &code, 8);
            object.add_symbol(Symbol {
                name: name.as_bytes().to_vec(),
                value,
                size: code.len() as u64,
                kind: SymbolKind::Text,
                scope: SymbolScope::Linkage,
                weak: false,
                section: SymbolSection::Section(section),
                flags: SymbolFlags::None,
            });
        }
        object.write().expect("an ELF file")
    }

    #[test]
    fn clean_programs_pass() {
        let data = object_of(&[("fentry_tcp_connect", &[EXIT]), ("memcpy", &[EXIT])]);
        assert_eq!(panic_paths(&data).expect("readable"), Vec::<String>::new());
    }

    #[test]
    fn panic_functions_are_named() {
        let name = "_RNvNtCs8nKcMpPeeR3_4core9panicking18panic_bounds_check";
        let data = object_of(&[("fentry_tcp_connect", &[EXIT]), (name, &[GOTO_SELF])]);
        assert_eq!(panic_paths(&data).expect("readable"), [name]);
    }

    #[test]
    fn an_inlined_endless_loop_is_found_in_its_function() {
        let data = object_of(&[("first", &[EXIT]), ("second", &[EXIT, GOTO_SELF])]);
        let found = panic_paths(&data).expect("readable");
        assert_eq!(found, ["second (endless loop at 0x10 of section fentry/tcp_connect)"]);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(panic_paths(b"not an object").is_err());
    }
}
