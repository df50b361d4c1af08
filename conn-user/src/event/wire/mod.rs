//! The shapes of the JSON: what a line and the objects in it have, each key with its type and meaning.
//!
//! Reader, schema and pages of the documentation follow from these types, and the writer of processes does. The rest
//! of an event is written by hand ([`super::json`]), which takes a third of the time, and is compared with the schema
//! by tests. A key of a type `Option` that is always written is `null` where it applies and is not known; one with
//! `skip_serializing_if` is absent where it does not apply.

mod alert;
mod encode;
mod line;
mod process;
#[cfg(test)]
pub(crate) mod schema;

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize, de};

pub(crate) use self::alert::{AlertPart, Coverage, Started};
pub(crate) use self::encode::{encode, encode_line};
#[cfg(test)]
pub(crate) use self::line::Peer;
pub(crate) use self::line::{Age, Line, Stdio, Who};
pub(crate) use self::process::{Ancestor, Container, Process};
#[cfg(test)]
use self::schema::{
    AlertId, CommunityId, ConnectionId, Hook, Method, Name, Object, ProcessId, ProcessOrId, Time, True,
    Version,
};
use crate::units::BootNs;
#[cfg(test)]
use schemars::JsonSchema;

/// How many processes a writer writes out, at most, before it writes one out again to which it refers; a reader keeps
/// at least as many.
pub(crate) const REFERRED_MAX: u64 = 32_768;

/// A text, borrowed where it has no escapes.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

/// An instant of a clock in nanoseconds, a string of digits: as a number it would lose its last digits wherever
/// numbers are 64-bit floating point (jq before 1.7, JavaScript), by boot time after 104 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instant(pub(crate) u64);

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl de::Visitor<'_> for Digits {
            type Value = Instant;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("nanoseconds as a string of digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Instant, E> {
                let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
                number.map(Instant).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

impl Serialize for Instant {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(itoa::Buffer::new().format(self.0))
    }
}

impl From<Instant> for BootNs {
    fn from(instant: Instant) -> Self {
        Self(instant.0)
    }
}

impl From<BootNs> for Instant {
    fn from(instant: BootNs) -> Self {
        Self(instant.0)
    }
}

/// Returns whether a flag that is only written where it is set is not.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) const fn is_unset(flag: &bool) -> bool {
    !*flag
}

/// Reads a key that is there, with `null` or a value: absent and `null` are not the same.
#[allow(clippy::option_option, reason = "absent and null are not the same")]
pub(crate) fn present<'de, D, T>(value: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(value).map(Some)
}
