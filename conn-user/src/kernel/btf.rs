//! BTF, the kernel's description of its own types: which functions and tracepoints there are, and where members lie.
//!
//! A read-only view of the raw bytes (`Documentation/bpf/btf.rst`): one index of type offsets, one of names, nothing
//! else is kept. Every read is checked and every walk is bounded, so bytes that are no BTF give an error, not a panic.

mod raw;

#[cfg(test)]
pub(super) mod build;
#[cfg(test)]
mod tests;

use std::{fs, io, path::PathBuf};

use raw::{Kind, Raw, Type};

/// Where the running kernel shows its BTF.
pub const SYS_FS_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Members that one lookup may look at: more than the largest kernel struct with everything nested in it, and a bound
/// for a struct that contains itself.
const LOOKUP_FUEL: u32 = 1 << 16;

/// Modifiers (`const`, `typedef`, …) and array dimensions that one type may have.
const CHAIN_DEPTH: u32 = 64;

/// Depth of anonymous structs inside anonymous structs.
const NEST_DEPTH: u32 = 32;

/// The bytes are not the BTF of a kernel like this one.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file cannot be read. Not found: the kernel was built without `CONFIG_DEBUG_INFO_BTF`.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The magic number is that of the other byte order.
    #[error("BTF is in the other byte order")]
    ByteOrder,
    /// The magic number is wrong.
    #[error("no BTF: the magic number is {0:#06x}")]
    Magic(u16),
    /// A version that is not known.
    #[error("BTF version {0} is not known")]
    Version(u8),
    /// A type kind that is neither known nor described by the layout section.
    #[error("BTF type {id} has the kind {kind}, which is not known")]
    Kind {
        /// Type id.
        id: u32,
        /// The number.
        kind: u8,
    },
    /// Something lies outside the data or contradicts itself.
    #[error("BTF is damaged: {what} at byte {at}")]
    Damaged {
        /// What was read.
        what: &'static str,
        /// Offset in the file, in bytes.
        at: usize,
    },
}

impl BtfError {
    /// Whether the kernel has no BTF at all, as opposed to one that cannot be read.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Read { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Why a member was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// There is no such struct or union.
    #[error("this kernel has no struct {0}")]
    NoContainer(String),
    /// There is the struct, not the member.
    #[error("struct {container} has no member {member}")]
    NoMember {
        /// The struct that was searched.
        container: String,
        /// The path up to and including the part that was not found.
        member: String,
    },
    /// The types of the struct do not make sense.
    #[error("the BTF of struct {0} is damaged")]
    Damaged(String),
}

/// Where a member lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Distance from the start of the container, in bytes. Of a bitfield: the byte with its first bit.
    pub offset: u32,
    /// Size in bytes. Of a bitfield: the bytes that it touches.
    pub size: u32,
    /// Set if it is a bitfield.
    pub bits: Option<Bits>,
}

/// The part of a bitfield inside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// First bit, counted as the machine does from the byte at [`Member::offset`]: 0 to 7.
    pub first: u8,
    /// Number of bits.
    pub width: u8,
}

/// The signature of a function, as far as a program has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Number of parameters.
    pub params: u32,
    /// Whether it returns something.
    pub returns: bool,
}

/// Parsed BTF.
pub struct Btf {
    raw: Raw,
}

impl Btf {
    /// Indexes the bytes of one BTF blob in the byte order of this machine.
    ///
    /// # Errors
    /// The bytes are not BTF, are damaged, or use a kind that is not known and not described.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        Ok(Self { raw: Raw::parse(data)? })
    }

    /// Reads the BTF of the running kernel.
    ///
    /// # Errors
    /// The errors of [`Btf::parse`]; also when the kernel has none ([`BtfError::is_absent`]).
    pub fn from_sys_fs() -> Result<Self, BtfError> {
        let data = fs::read(SYS_FS_PATH)
            .map_err(|error| BtfError::Read { path: PathBuf::from(SYS_FS_PATH), error })?;
        Self::parse(data)
    }

    /// Number of types, without `void`.
    pub fn type_count(&self) -> usize {
        self.raw.type_count()
    }

    /// Whether a struct or union of this name is defined.
    pub fn has_struct(&self, name: &str) -> bool {
        self.structs(name).next().is_some()
    }

    /// Whether there is a typedef of this name.
    pub fn has_typedef(&self, name: &str) -> bool {
        self.raw.named(name).any(|(_, ty)| ty.kind == Kind::Typedef)
    }

    /// The function of this name, if the kernel has one that can be distinguished from its namesakes.
    pub fn function(&self, name: &str) -> Option<Function> {
        let (_, func) = self.raw.named(name).find(|(_, ty)| ty.kind == Kind::Func)?;
        self.prototype(func.target)
    }

    /// Number of arguments that a `tp_btf` program on this tracepoint gets, if the kernel has the tracepoint.
    ///
    /// Each tracepoint has a `typedef void (*btf_trace_NAME)(void *__data, …)`
    /// (`include/trace/bpf_probe.h`, `__DEFINE_EVENT`).
    pub fn tracepoint(&self, name: &str) -> Option<u32> {
        let typedef = format!("btf_trace_{name}");
        let (_, ty) = self.raw.named(&typedef).find(|(_, ty)| ty.kind == Kind::Typedef)?;
        let pointer = self.raw.ty(ty.target).filter(|ty| ty.kind == Kind::Ptr)?;
        self.prototype(pointer.target)?.params.checked_sub(1)
    }

    /// Finds `path`, members joined by dots, in struct or union `container`; anonymous members are searched.
    ///
    /// Kernel names are not unique: of several structs of one name the first that has the member counts.
    ///
    /// # Errors
    /// There is no such struct or member. Pointers are not followed.
    pub fn member(&self, container: &str, path: &str) -> Result<Member, MemberError> {
        let mut failure = MemberError::NoContainer(container.to_owned());
        for (_, ty) in self.structs(container) {
            match self.member_of(container, ty, path) {
                Ok(member) => return Ok(member),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Size of a struct or union in bytes.
    pub fn struct_size(&self, name: &str) -> Option<u32> {
        self.structs(name).next().map(|(_, ty)| ty.target)
    }

    fn structs(&self, name: &str) -> impl Iterator<Item = (u32, Type)> {
        self.raw.named(name).filter(|(_, ty)| ty.kind.has_members())
    }

    fn prototype(&self, id: u32) -> Option<Function> {
        let ty = self.raw.ty(id).filter(|ty| ty.kind == Kind::FuncProto)?;
        // `(void)` has no parameter; a last parameter without type is the `...` of a variadic function.
        Some(Function { params: ty.vlen, returns: ty.target != 0 })
    }

    fn member_of(&self, container: &str, ty: Type, path: &str) -> Result<Member, MemberError> {
        let damaged = || MemberError::Damaged(container.to_owned());
        let mut fuel = LOOKUP_FUEL;
        let mut within = ty;
        let mut base_bits: u32 = 0;
        let mut found: Option<raw::Member> = None;
        let mut walked = 0;
        for part in path.split('.') {
            walked += part.len() + usize::from(walked != 0);
            if let Some(last) = found {
                within = self.raw.strip(last.ty).ok_or_else(damaged)?;
            }
            let missing = || MemberError::NoMember {
                container: container.to_owned(),
                member: path.get(..walked).unwrap_or(path).to_owned(),
            };
            if !within.kind.has_members() || part.is_empty() {
                return Err(missing());
            }
            let hit = self.search(within, part, NEST_DEPTH, &mut fuel).map_err(|Exhausted| damaged())?;
            let (member, inside) = hit.ok_or_else(missing)?;
            base_bits = base_bits.checked_add(inside).ok_or_else(damaged)?;
            found = Some(member);
        }
        let member = found.ok_or_else(damaged)?;
        self.place(base_bits, member).ok_or_else(damaged)
    }

    /// Finds a member and its distance from the start of `ty` in bits, in `ty` and its anonymous members.
    fn search(
        &self,
        ty: Type,
        name: &str,
        depth: u32,
        fuel: &mut u32,
    ) -> Result<Option<(raw::Member, u32)>, Exhausted> {
        for index in 0..ty.vlen {
            *fuel = fuel.checked_sub(1).ok_or(Exhausted)?;
            let member = self.raw.member(ty, index).ok_or(Exhausted)?;
            if self.raw.name_is(member.name, name) {
                return Ok(Some((member, member.bit_offset)));
            }
            if !self.raw.name_is(member.name, "") {
                continue;
            }
            let Some(inner) = self.raw.strip(member.ty).filter(|inner| inner.kind.has_members()) else {
                continue;
            };
            let depth = depth.checked_sub(1).ok_or(Exhausted)?;
            if let Some((hit, inside)) = self.search(inner, name, depth, fuel)? {
                let bits = member.bit_offset.checked_add(inside).ok_or(Exhausted)?;
                return Ok(Some((hit, bits)));
            }
        }
        Ok(None)
    }

    fn place(&self, bits: u32, member: raw::Member) -> Option<Member> {
        let (shift, width) = match member.bit_width {
            0 => self.raw.int_bits(member.ty)?,
            width => (0, Some(width)),
        };
        let bits = bits.checked_add(shift)?;
        let offset = bits / 8;
        let first = (bits % 8) as u8;
        match width {
            Some(width) => {
                let size = (u32::from(first) + u32::from(width)).div_ceil(8);
                Some(Member { offset, size, bits: Some(Bits { first, width }) })
            }
            None if first == 0 => Some(Member { offset, size: self.raw.size_of(member.ty)?, bits: None }),
            None => None,
        }
    }
}

/// A walk came to data that cannot be walked.
struct Exhausted;
