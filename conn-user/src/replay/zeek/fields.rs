//! The values of a line as text, of whichever format.

use std::borrow::Cow;

use super::error::ZeekError;

/// What is looked at of a line. Other columns are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Ts,
    Uid,
    OrigH,
    OrigP,
    RespH,
    RespP,
    Proto,
    Duration,
    OrigBytes,
    RespBytes,
    ConnState,
    LocalOrig,
    LocalResp,
    History,
}

impl Field {
    /// All, in the order of their numbers.
    pub(super) const ALL: [Self; 14] = [
        Self::Ts,
        Self::Uid,
        Self::OrigH,
        Self::OrigP,
        Self::RespH,
        Self::RespP,
        Self::Proto,
        Self::Duration,
        Self::OrigBytes,
        Self::RespBytes,
        Self::ConnState,
        Self::LocalOrig,
        Self::LocalResp,
        Self::History,
    ];

    /// Those without which there is nothing to judge.
    pub(super) const NEEDED: [Self; 7] =
        [Self::Ts, Self::OrigH, Self::OrigP, Self::RespH, Self::RespP, Self::Proto, Self::ConnState];

    /// Its name in the log.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ts => "ts",
            Self::Uid => "uid",
            Self::OrigH => "id.orig_h",
            Self::OrigP => "id.orig_p",
            Self::RespH => "id.resp_h",
            Self::RespP => "id.resp_p",
            Self::Proto => "proto",
            Self::Duration => "duration",
            Self::OrigBytes => "orig_bytes",
            Self::RespBytes => "resp_bytes",
            Self::ConnState => "conn_state",
            Self::LocalOrig => "local_orig",
            Self::LocalResp => "local_resp",
            Self::History => "history",
        }
    }

    /// The one with this name. Between `id` and its parts stands what `Log::default_scope_sep` says: `id_orig_h`, `id::orig_h`.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        let is_scoped = |field: &Self| {
            let part = field.part().and_then(|part| name.strip_prefix(b"id")?.strip_suffix(part.as_bytes()));
            part.is_some_and(|separator| {
                !separator.is_empty() && separator.iter().all(u8::is_ascii_punctuation)
            })
        };
        Self::ALL.into_iter().find(|field| field.name().as_bytes() == name || is_scoped(field))
    }

    /// Its name within `id`, of those that are in it.
    pub(super) fn part(self) -> Option<&'static str> {
        self.name().strip_prefix("id.")
    }
}

/// The values of one line by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'l>([Option<Cow<'l, str>>; Field::ALL.len()]);

impl<'l> Fields<'l> {
    /// Notes a value; `None`: the line has it unset.
    pub(super) fn set(&mut self, field: Field, value: Option<Cow<'l, str>>) {
        self.0[field as usize] = value;
    }

    /// A value; `None`: unset, or not in the log.
    pub(super) fn get(&self, field: Field) -> Option<&str> {
        self.0[field as usize].as_deref()
    }

    /// A value as what it says; `what` is what it should be, for the error.
    pub(super) fn read<T>(
        &self,
        field: Field,
        what: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ZeekError> {
        let Some(text) = self.get(field) else { return Ok(None) };
        read(text).map(Some).ok_or_else(|| ZeekError::value(field.name(), what, text))
    }

    /// A value that every line has, as what it says; `what` is what it should be, for the error.
    pub(super) fn need<T>(
        &self,
        field: Field,
        what: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ZeekError> {
        self.read(field, what, read)?.ok_or(ZeekError::Missing(field.name()))
    }
}
