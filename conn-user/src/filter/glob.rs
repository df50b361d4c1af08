//! Globs over bytes: `*` is any run of bytes, `/` too, `?` is one byte, `[a-z]` one of a set, `[!a-z]` one not of it.

/// A compiled glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    AnyByte,
    AnyRun,
    Set { ranges: Box<[(u8, u8)]>, negated: bool },
}

impl Glob {
    /// Compiles a pattern. Every text is one: a `[` that is never closed is itself.
    pub fn new(pattern: &str) -> Self {
        let bytes = pattern.as_bytes();
        let (mut parts, mut at) = (Vec::new(), 0);
        while let Some(byte) = bytes.get(at) {
            let mut used = 1;
            let part = match byte {
                b'*' => Part::AnyRun,
                b'?' => Part::AnyByte,
                b'[' => match set(&bytes[at..]) {
                    Some((part, length)) => {
                        used = length;
                        part
                    }
                    None => Part::Byte(b'['),
                },
                byte => Part::Byte(*byte),
            };
            at += used;
            // Two stars say no more than one.
            if part != Part::AnyRun || parts.last() != Some(&Part::AnyRun) {
                parts.push(part);
            }
        }
        Self { parts: parts.into() }
    }

    /// Whether a text has anything that makes it a glob.
    pub fn is_glob(text: &str) -> bool {
        text.contains(['*', '?', '['])
    }

    /// What every text that fits begins with.
    pub fn prefix(&self) -> Box<[u8]> {
        let byte = |part: &Part| match part {
            Part::Byte(byte) => Some(*byte),
            Part::AnyByte | Part::AnyRun | Part::Set { .. } => None,
        };
        self.parts.iter().map_while(byte).collect()
    }

    /// Whether the whole of `bytes` fits. Time is at most the product of the lengths.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.fits(bytes, |part, byte| part.takes(*byte))
    }

    /// Whether whatever fits `other` fits this one. Of globs that say the same in different ways (`*?`, `?*`) it may say no.
    pub fn covers(&self, other: &Self) -> bool {
        self.fits(&other.parts, Part::covers)
    }

    /// Whether a row of single things fits, each of which a part may take; a star takes any run of them.
    fn fits<T>(&self, row: &[T], takes: impl Fn(&Part, &T) -> bool) -> bool {
        let (mut part, mut at) = (0, 0);
        // Where to go on when the last star has to take one more.
        let mut star: Option<(usize, usize)> = None;
        while at < row.len() || part < self.parts.len() {
            let fits = match self.parts.get(part) {
                Some(Part::AnyRun) => {
                    star = Some((part, at));
                    part += 1;
                    continue;
                }
                Some(single) => row.get(at).is_some_and(|one| takes(single, one)),
                None => false,
            };
            if fits {
                part += 1;
                at += 1;
                continue;
            }
            match &mut star {
                Some((star_part, star_at)) if *star_at < row.len() => {
                    *star_at += 1;
                    (part, at) = (*star_part + 1, *star_at);
                }
                _ => return false,
            }
        }
        true
    }
}

impl Part {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(own) => *own == byte,
            Self::AnyByte | Self::AnyRun => true,
            Self::Set { ranges, negated } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte)) != *negated
            }
        }
    }

    /// Whether it takes every byte that `other` may be, and `other` is one byte.
    fn covers(&self, other: &Self) -> bool {
        match other {
            Self::Byte(byte) => self.takes(*byte),
            Self::AnyByte | Self::Set { .. } => {
                (0..=u8::MAX).all(|byte| !other.takes(byte) || self.takes(byte))
            }
            Self::AnyRun => false,
        }
    }
}

/// The set at the start of `bytes` (which begin with `[`) and its length. A `]` right at the start belongs to it.
fn set(bytes: &[u8]) -> Option<(Part, usize)> {
    let negated = matches!(bytes.get(1), Some(b'!' | b'^'));
    let first = 1 + usize::from(negated);
    let length = bytes.iter().skip(first + 1).position(|byte| *byte == b']')?;
    let inside = bytes.get(first..first + 1 + length)?;
    let (mut ranges, mut rest) = (Vec::new(), inside);
    while let Some(low) = rest.first() {
        let (high, used) = match rest {
            [_, b'-', high, ..] => (high, 3),
            _ => (low, 1),
        };
        ranges.push((*low, *high));
        rest = &rest[used..];
    }
    Some((Part::Set { ranges: ranges.into(), negated }, first + length + 2))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, without care for time.
    pub(in crate::filter) fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            [b'?', rest @ ..] => !text.is_empty() && naive(rest, &text[1..]),
            [b'[', ..] if set(pattern).is_some() => {
                let (part, length) = set(pattern).expect("a set");
                !text.is_empty() && part.takes(text[0]) && naive(&pattern[length..], &text[1..])
            }
            [byte, rest @ ..] => text.first() == Some(byte) && naive(rest, &text[1..]),
        }
    }

    #[test]
    fn examples() {
        for (pattern, text, expected) in [
            ("nginx", "nginx", true),
            ("nginx", "nginx2", false),
            ("", "", true),
            ("*", "", true),
            ("/usr/*", "/usr/sbin/nginx", true),
            ("*.so*.6", "libc.so.x.so.6", true),
            ("k?orker/[0-9]*", "kworker/1:0", true),
            ("k?orker/[!0-9]*", "kworker/1:0", false),
            ("[abc", "[abc", true),
            ("[]x]", "]", true),
            ("a**b", "axxb", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn one_covers_another() {
        for (own, other, expected) in [
            ("/usr/bin/*", "/usr/bin/python3", true),
            ("/usr/bin/*", "/usr/bin/python[0-9]*", true),
            ("/usr/bin/python[0-9]*", "/usr/bin/python[0-9]*", true),
            ("/usr/bin/python[0-9]*", "/usr/bin/python3.?", true),
            ("/usr/bin/python[0-9]*", "/usr/bin/python*", false),
            ("app-?", "app-*", false),
            ("app-??*", "app-*", false),
            ("[a-f]", "[b-c]", true),
            ("[b-c]", "[a-f]", false),
            ("*", "", true),
            ("", "*", false),
        ] {
            assert_eq!(Glob::new(own).covers(&Glob::new(other)), expected, "{own} {other}");
        }
    }

    #[test]
    fn many_stars_take_bounded_time() {
        let pattern = "*a".repeat(200) + "b";
        assert!(!Glob::new(&pattern).matches("a".repeat(4096).as_bytes()));
    }

    proptest! {
        #[test]
        fn what_is_covered_fits(own in "[ab*?\\[\\]]{0,6}", other in "[ab*?\\[\\]]{0,6}", text in "[ab]{0,6}") {
            let (own, other) = (Glob::new(&own), Glob::new(&other));
            if own.covers(&other) && other.matches(text.as_bytes()) {
                prop_assert!(own.matches(text.as_bytes()));
            }
        }

        #[test]
        fn equals_the_definition(pattern in "[ab*?\\[\\]!-]{0,8}", text in "[ab\\[\\]!-]{0,8}") {
            prop_assert_eq!(Glob::new(&pattern).matches(text.as_bytes()), naive(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
