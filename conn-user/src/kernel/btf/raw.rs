//! The encoding: header, type section, string section.

use super::{BtfError, CHAIN_DEPTH};

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
/// Header with the layout section that describes kinds (`struct btf_layout`, 2026).
const HEADER_LEN_LAYOUT: usize = 32;
/// `struct btf_type`: name, info, size or type.
const TYPE_LEN: usize = 12;
/// Every kernel that conn supports is 64-bit.
const POINTER_SIZE: u32 = 8;

/// `BTF_KIND_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
    /// A kind of a later kernel that the layout section lets us step over.
    Later,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Int,
            2 => Self::Ptr,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Fwd,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Func,
            13 => Self::FuncProto,
            14 => Self::Var,
            15 => Self::Datasec,
            16 => Self::Float,
            17 => Self::DeclTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            _ => return None,
        })
    }

    /// Bytes after `struct btf_type`: once, and per element.
    fn extra(self) -> (usize, usize) {
        match self {
            Self::Int | Self::Var | Self::DeclTag => (4, 0),
            Self::Array => (12, 0),
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => (0, 12),
            Self::Enum | Self::FuncProto => (0, 8),
            _ => (0, 0),
        }
    }

    pub(super) fn has_members(self) -> bool {
        matches!(self, Self::Struct | Self::Union)
    }

    fn is_modifier(self) -> bool {
        matches!(self, Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag)
    }

    fn is_looked_up(self) -> bool {
        matches!(self, Self::Struct | Self::Union | Self::Typedef | Self::Func)
    }
}

/// One `struct btf_type`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    pub(super) kind: Kind,
    /// Whether members carry bitfield widths.
    flag: bool,
    /// Number of elements that follow.
    pub(super) vlen: u32,
    /// Size in bytes or id of another type, by kind.
    pub(super) target: u32,
    name: u32,
    /// Offset of what follows, in bytes.
    at: usize,
}

/// One member of a struct or union.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) name: u32,
    pub(super) ty: u32,
    pub(super) bit_offset: u32,
    /// 0: not a bitfield.
    pub(super) bit_width: u8,
}

/// Indexed bytes.
pub(super) struct Raw {
    data: Vec<u8>,
    /// Offset of each type, from id 1 on.
    types: Vec<u32>,
    /// Hash of the name and type id of what is looked up by name, sorted.
    names: Vec<(u32, u32)>,
    strings: Section,
}

#[derive(Clone, Copy)]
struct Section {
    start: usize,
    end: usize,
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// FNV-1a: only spreads names over the index, equality is checked on the bytes.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// `info`: vlen in bits 0 to 23, kind in 24 to 30, flag in 31. Kernels up to 7.0 use 16 and 5 bits and keep the rest
/// zero.
fn split_info(info: u32) -> (u32, u8, bool) {
    (info & 0x00ff_ffff, (info >> 24 & 0x7f) as u8, info >> 31 == 1)
}

impl Raw {
    pub(super) fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let damaged = |what, at| BtfError::Damaged { what, at };
        let [m0, m1, version, _flags, ..] = data[..] else {
            return Err(damaged("header", 0));
        };
        match u16::from_ne_bytes([m0, m1]) {
            MAGIC => {}
            other if other.swap_bytes() == MAGIC => return Err(BtfError::ByteOrder),
            other => return Err(BtfError::Magic(other)),
        }
        if version != 1 {
            return Err(BtfError::Version(version));
        }
        let field = |at| u32_at(&data, at).map(|value| value as usize).ok_or_else(|| damaged("header", at));
        let header = field(4)?;
        if header < HEADER_LEN || header > data.len() {
            return Err(damaged("header length", 4));
        }
        let section = |at: usize| {
            let start = header.checked_add(field(at)?).ok_or_else(|| damaged("section", at))?;
            let end = start.checked_add(field(at + 4)?).ok_or_else(|| damaged("section", at))?;
            if end > data.len() { Err(damaged("section", at)) } else { Ok(Section { start, end }) }
        };
        let types = section(8)?;
        let strings = section(16)?;
        let layout = if header >= HEADER_LEN_LAYOUT { Some(section(24)?) } else { None };
        // Offsets are kept as u32; the kernel bounds a blob far below (BTF_MAX_SIZE).
        if u32::try_from(data.len()).is_err() {
            return Err(damaged("size", 0));
        }

        let mut raw = Self {
            types: Vec::with_capacity((types.end - types.start) / 20),
            names: Vec::new(),
            strings,
            data,
        };
        raw.index(types, layout)?;
        raw.names.sort_unstable();
        Ok(raw)
    }

    fn index(&mut self, section: Section, layout: Option<Section>) -> Result<(), BtfError> {
        let mut at = section.start;
        while at < section.end {
            let damaged = || BtfError::Damaged { what: "type", at };
            let id = self.types.len() as u32 + 1;
            let (Some(name), Some(info)) = (u32_at(&self.data, at), u32_at(&self.data, at + 4)) else {
                return Err(damaged());
            };
            let (vlen, number, _) = split_info(info);
            let known = Kind::from_number(number);
            let (once, each) = known
                .map(Kind::extra)
                .or_else(|| self.described(layout, number))
                .ok_or(BtfError::Kind { id, kind: number })?;
            let end = (vlen as usize)
                .checked_mul(each)
                .and_then(|len| at.checked_add(TYPE_LEN)?.checked_add(once)?.checked_add(len))
                .filter(|&end| end <= section.end)
                .ok_or_else(damaged)?;
            self.types.push(at as u32);
            if known.is_some_and(Kind::is_looked_up) && name != 0 {
                let name = self.string(name).ok_or_else(damaged)?;
                let hash = hash(name);
                self.names.push((hash, id));
            }
            at = end;
        }
        Ok(())
    }

    /// What the layout section says about a kind (`struct btf_layout`: u8 info_sz, u8 elem_sz, u16 flags).
    fn described(&self, layout: Option<Section>, kind: u8) -> Option<(usize, usize)> {
        let layout = layout?;
        let entry = layout.start.checked_add(usize::from(kind) * 4)?;
        if kind == 0 || entry.checked_add(4)? > layout.end {
            return None;
        }
        let &once = self.data.get(entry)?;
        let &each = self.data.get(entry + 1)?;
        Some((usize::from(once), usize::from(each)))
    }

    pub(super) fn type_count(&self) -> usize {
        self.types.len()
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let start = self.strings.start.checked_add(offset as usize)?;
        let rest = self.data.get(start..self.strings.end)?;
        let len = rest.iter().position(|&byte| byte == 0)?;
        rest.get(..len)
    }

    pub(super) fn name_is(&self, offset: u32, name: &str) -> bool {
        if offset == 0 {
            return name.is_empty();
        }
        let Some(start) = self.strings.start.checked_add(offset as usize) else { return false };
        let rest = self.data.get(start..self.strings.end).unwrap_or_default();
        rest.strip_prefix(name.as_bytes()).is_some_and(|after| after.first() == Some(&0))
    }

    /// Structs, unions, typedefs and functions of this name, in the order of their ids.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = (u32, Type)> {
        let hash = hash(name.as_bytes());
        let start = self.names.partition_point(|&(other, _)| other < hash);
        self.names[start..]
            .iter()
            .take_while(move |&&(other, _)| other == hash)
            .filter_map(|&(_, id)| Some((id, self.ty(id)?)))
            .filter(move |(_, ty)| self.name_is(ty.name, name))
    }

    /// The type with this id; none for `void` and for ids that do not exist.
    pub(super) fn ty(&self, id: u32) -> Option<Type> {
        let at = *self.types.get((id as usize).checked_sub(1)?)? as usize;
        let (vlen, number, flag) = split_info(u32_at(&self.data, at + 4)?);
        Some(Type {
            kind: Kind::from_number(number).unwrap_or(Kind::Later),
            flag,
            vlen,
            target: u32_at(&self.data, at + 8)?,
            name: u32_at(&self.data, at)?,
            at: at + TYPE_LEN,
        })
    }

    /// The type behind typedefs and qualifiers.
    pub(super) fn strip(&self, id: u32) -> Option<Type> {
        let mut ty = self.ty(id)?;
        for _ in 0..CHAIN_DEPTH {
            if !ty.kind.is_modifier() {
                return Some(ty);
            }
            ty = self.ty(ty.target)?;
        }
        None
    }

    /// The member with this index of a struct or union.
    pub(super) fn member(&self, ty: Type, index: u32) -> Option<Member> {
        let at = ty.at.checked_add((index as usize).checked_mul(12)?)?;
        let offset = u32_at(&self.data, at + 8)?;
        let (bit_offset, bit_width) =
            if ty.flag { (offset & 0x00ff_ffff, (offset >> 24) as u8) } else { (offset, 0) };
        Some(Member { name: u32_at(&self.data, at)?, ty: u32_at(&self.data, at + 4)?, bit_offset, bit_width })
    }

    /// Bit offset inside its storage unit, and width, of an integer that does not fill its bytes: how a compiler
    /// without `kind_flag` writes a bitfield. No width: an ordinary type.
    pub(super) fn int_bits(&self, id: u32) -> Option<(u32, Option<u8>)> {
        let ty = self.strip(id)?;
        if ty.kind != Kind::Int {
            return Some((0, None));
        }
        let encoding = u32_at(&self.data, ty.at)?;
        let (shift, width) = (encoding >> 16 & 0xff, encoding & 0xff);
        if shift == 0 && Some(width) == ty.target.checked_mul(8) {
            Some((0, None))
        } else {
            Some((shift, Some(width as u8)))
        }
    }

    /// Size of a type in bytes.
    pub(super) fn size_of(&self, id: u32) -> Option<u32> {
        let mut count: u32 = 1;
        let mut ty = self.strip(id)?;
        for _ in 0..CHAIN_DEPTH {
            let size = match ty.kind {
                Kind::Array => {
                    count = count.checked_mul(u32_at(&self.data, ty.at + 8)?)?;
                    ty = self.strip(u32_at(&self.data, ty.at)?)?;
                    continue;
                }
                Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => ty.target,
                Kind::Ptr => POINTER_SIZE,
                _ => return None,
            };
            return count.checked_mul(size);
        }
        None
    }
}
