//! Makes BTF for tests.

/// Collects types and strings. Every `fn` that adds a type returns its id.
pub(in crate::kernel) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

/// A member: name, type, offset in bits, width in bits (0: no bitfield).
pub(in crate::kernel) type MemberSpec<'a> = (&'a str, u32, u32, u32);

impl Builder {
    pub(in crate::kernel) fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], count: 0 }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn put(&mut self, words: &[u32]) {
        for word in words {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
    }

    /// A type of any kind: what follows `struct btf_type` is given as words.
    pub(in crate::kernel) fn raw(
        &mut self,
        name: &str,
        kind: u32,
        flag: bool,
        vlen: u32,
        size_or_type: u32,
        rest: &[u32],
    ) -> u32 {
        let name = self.string(name);
        self.put(&[name, u32::from(flag) << 31 | kind << 24 | vlen, size_or_type]);
        self.put(rest);
        self.count += 1;
        self.count
    }

    pub(in crate::kernel) fn int(&mut self, name: &str, size: u32) -> u32 {
        self.raw(name, 1, false, 0, size, &[size * 8])
    }

    pub(in crate::kernel) fn ptr(&mut self, to: u32) -> u32 {
        self.raw("", 2, false, 0, to, &[])
    }

    pub(in crate::kernel) fn array(&mut self, of: u32, count: u32) -> u32 {
        self.raw("", 3, false, 0, 0, &[of, of, count])
    }

    pub(in crate::kernel) fn typedef(&mut self, name: &str, of: u32) -> u32 {
        self.raw(name, 8, false, 0, of, &[])
    }

    pub(in crate::kernel) fn constant(&mut self, of: u32) -> u32 {
        self.raw("", 10, false, 0, of, &[])
    }

    fn compound(&mut self, kind: u32, name: &str, size: u32, members: &[MemberSpec<'_>]) -> u32 {
        let flag = members.iter().any(|&(.., width)| width != 0);
        let mut rest = Vec::new();
        for &(name, ty, bits, width) in members {
            rest.extend([self.string(name), ty, if flag { width << 24 | bits } else { bits }]);
        }
        self.raw(name, kind, flag, members.len() as u32, size, &rest)
    }

    pub(in crate::kernel) fn structure(&mut self, name: &str, size: u32, members: &[MemberSpec<'_>]) -> u32 {
        self.compound(4, name, size, members)
    }

    pub(in crate::kernel) fn union(&mut self, name: &str, size: u32, members: &[MemberSpec<'_>]) -> u32 {
        self.compound(5, name, size, members)
    }

    pub(in crate::kernel) fn prototype(&mut self, returns: u32, params: &[u32]) -> u32 {
        let rest: Vec<u32> = params.iter().flat_map(|&ty| [0, ty]).collect();
        self.raw("", 13, false, params.len() as u32, returns, &rest)
    }

    pub(in crate::kernel) fn func(&mut self, name: &str, returns: u32, params: &[u32]) -> u32 {
        let prototype = self.prototype(returns, params);
        self.raw(name, 12, false, 0, prototype, &[])
    }

    /// A tracepoint with this many arguments after `__data`.
    pub(in crate::kernel) fn tracepoint(&mut self, name: &str, arguments: usize) -> u32 {
        let void = self.ptr(0);
        let prototype = self.prototype(0, &vec![void; arguments + 1]);
        let pointer = self.ptr(prototype);
        self.typedef(&format!("btf_trace_{name}"), pointer)
    }

    pub(in crate::kernel) fn finish(self) -> Vec<u8> {
        self.with_layout(&[])
    }

    /// With a layout section: bytes after `struct btf_type`, once and per element, from kind 0 on.
    pub(in crate::kernel) fn with_layout(self, layout: &[(u8, u8)]) -> Vec<u8> {
        let header_len: u32 = if layout.is_empty() { 24 } else { 32 };
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let mut out = Vec::new();
        out.extend(0xeb9f_u16.to_ne_bytes());
        out.extend([1, 0]);
        for word in [header_len, 0, types, types, strings] {
            out.extend(word.to_ne_bytes());
        }
        if !layout.is_empty() {
            for word in [types + strings, layout.len() as u32 * 4] {
                out.extend(word.to_ne_bytes());
            }
        }
        out.extend(self.types);
        out.extend(self.strings);
        for &(once, each) in layout {
            out.extend([once, each, 0, 0]);
        }
        out
    }
}
