//! The layouts of `abi.rs` against the BTF that clang wrote for `abi.h`.

use std::collections::HashMap;

use super::process::{ExecRecord, ExitRecord, Record};
use super::*;
use crate::Aligned;

include!(concat!(env!("OUT_DIR"), "/layouts.rs"));

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_TYPEDEF: u32 = 8;

#[derive(Debug)]
enum Type {
    Sized(usize),
    Alias(u32),
    Array {
        of: u32,
        count: usize,
    },
    Struct {
        name: String,
        size: usize,
        members: Vec<(String, u32, usize)>,
    },
    Other,
}

struct Types(Vec<Type>);

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn text_at(strings: &[u8], at: u32) -> String {
    let rest = &strings[at as usize..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(rest[..end].to_vec()).unwrap()
}

/// The `.BTF` section, found by its header: magic 0xeb9f, version 1, header length 24.
fn btf_section(object: &'static [u8]) -> &'static [u8] {
    let start = object
        .windows(8)
        .position(|window| window == [0x9f, 0xeb, 1, 0, 24, 0, 0, 0]);
    &object[start.expect("the object has BTF")..]
}

impl Types {
    fn read(object: &'static [u8]) -> Types {
        let btf = btf_section(object);
        let types_at = 24 + u32_at(btf, 8) as usize;
        let types_end = types_at + u32_at(btf, 12) as usize;
        let strings = &btf[24 + u32_at(btf, 16) as usize..];
        let mut types = vec![Type::Other];
        let mut at = types_at;
        while at < types_end {
            let (name, info, size) = (u32_at(btf, at), u32_at(btf, at + 4), u32_at(btf, at + 8));
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            at += 12;
            let (parsed, extra) = match kind {
                KIND_INT => (Type::Sized(size as usize), 4),
                KIND_ARRAY => (
                    Type::Array {
                        of: u32_at(btf, at),
                        count: u32_at(btf, at + 8) as usize,
                    },
                    12,
                ),
                KIND_STRUCT => {
                    let member = |index: usize| {
                        let at = at + 12 * index;
                        let bits = u32_at(btf, at + 8) as usize;
                        (text_at(strings, u32_at(btf, at)), u32_at(btf, at + 4), bits / 8)
                    };
                    let members = (0..count).map(member).collect();
                    let name = text_at(strings, name);
                    (
                        Type::Struct {
                            name,
                            size: size as usize,
                            members,
                        },
                        12 * count,
                    )
                }
                KIND_TYPEDEF => (Type::Alias(size), 0),
                14 => (Type::Other, 4),
                15 => (Type::Other, 12 * count),
                2 | 7 | 9 | 10 | 11 => (Type::Other, 0),
                other => panic!("BTF kind {other} is not expected in the layout object"),
            };
            types.push(parsed);
            at += extra;
        }
        Types(types)
    }

    fn size(&self, id: u32) -> usize {
        match &self.0[id as usize] {
            Type::Sized(size) | Type::Struct { size, .. } => *size,
            Type::Alias(of) => self.size(*of),
            Type::Array { of, count } => self.size(*of) * count,
            Type::Other => panic!("type {id} has no size"),
        }
    }

    fn flatten(&self, id: u32, path: &str, base: usize, out: &mut HashMap<String, (usize, usize)>) {
        let Type::Struct { members, .. } = &self.0[id as usize] else {
            return;
        };
        for (name, member, offset) in members {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            out.insert(path.clone(), (base + offset, self.size(*member)));
            self.flatten(*member, &path, base + offset, out);
        }
    }

    fn layout(&self, wanted: &str) -> (usize, HashMap<String, (usize, usize)>) {
        let found = self
            .0
            .iter()
            .position(|one| matches!(one, Type::Struct { name, .. } if name == wanted));
        let id = u32::try_from(found.unwrap_or_else(|| panic!("{wanted} is not in the BTF"))).unwrap();
        let mut fields = HashMap::new();
        self.flatten(id, "", 0, &mut fields);
        (self.size(id), fields)
    }
}

fn assert_layout(types: &Types, layout: &Layout) {
    let (c_size, c_fields) = types.layout(layout.name);
    assert_eq!(c_size, layout.size, "size of {}", layout.name);
    for field in layout.fields {
        assert_eq!(
            c_fields.get(field.name),
            Some(&(field.offset, field.size)),
            "{}.{}: offset and size",
            layout.name,
            field.name
        );
    }
}

#[test]
fn layouts_are_those_of_the_compiled_headers() {
    for (family, layouts, _) in FAMILIES {
        let found = LAYOUT_OBJECTS.iter().find(|(name, _)| name == family);
        let Some((_, object)) = found else {
            assert!(layouts.is_empty(), "abi/{family}.h is missing");
            continue;
        };
        let types = Types::read(&object.0);
        for layout in SHARED.iter().chain(*layouts) {
            assert_layout(&types, layout);
        }
    }
}

#[test]
fn no_family_reads_what_is_cut() {
    for (family, layouts, check) in FAMILIES {
        let whole = layouts.iter().map(|layout| layout.size).min().unwrap_or_default();
        for length in 0..whole.min(12) {
            assert!(check(&vec![1; length]).is_err(), "{family}: {length} bytes");
        }
        let mut unknown = vec![0; 4096];
        unknown[8..10].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(check(&unknown), Err(AbiError::Kind(0xffff)), "{family}");
    }
}

#[test]
fn parser_refuses_short_and_unknown_records() {
    for length in 0..ExitRecord::SIZE {
        let mut bytes = vec![0; length];
        if length > 8 {
            bytes[8] = 3;
        }
        assert!(Record::parse(&bytes).is_err(), "{length} bytes");
    }
    let mut unknown = vec![0; 200];
    unknown[8] = 99;
    assert_eq!(Record::parse(&unknown), Err(AbiError::Kind(99)));
}

#[test]
fn parser_refuses_text_that_is_longer_than_the_record() {
    let mut bytes = vec![0; ExecRecord::SIZE + 4];
    bytes[8] = 1;
    bytes[122] = 5;
    let wanted = ExecRecord::SIZE + 5;
    assert_eq!(
        Record::parse(&bytes),
        Err(AbiError::Short {
            wanted,
            found: wanted - 1
        })
    );
}

#[test]
fn parser_reads_the_text_of_an_exec() {
    let mut bytes = vec![0; ExecRecord::SIZE];
    bytes[8] = 1;
    bytes[12..16].copy_from_slice(&77_u32.to_le_bytes());
    bytes[120..122].copy_from_slice(&5_u16.to_le_bytes());
    bytes[122..124].copy_from_slice(&7_u16.to_le_bytes());
    bytes.extend_from_slice(b"/bin/lsls\0-l");
    let Ok(Record::Exec {
        record,
        filename,
        argv,
    }) = Record::parse(&bytes)
    else {
        panic!("an exec")
    };
    assert_eq!(
        (record.pid, filename, argv),
        (77, &b"/bin/ls"[..], &b"ls\0-l"[..])
    );
}
