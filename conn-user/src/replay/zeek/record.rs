//! A connection as a line of `conn.log` tells it.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use jiff::Timestamp;
use thiserror::Error;

use crate::flow::model::canonical_ip;
use crate::units::{DurationNs, WallNs};

/// Characters of a value that an error shows.
const SHOWN: usize = 64;
/// A time of so many seconds is not one, but of milliseconds (`JSON::TS_MILLIS`): it would be in the year 5138.
const MILLISECONDS_FROM: u64 = 100_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// Why a line is no connection.
#[derive(Debug, Error)]
pub enum ZeekError {
    /// A field that every connection has is missing or unset.
    #[error(
        "no `{0}`, which every line of a conn.log has; other logs of Zeek tell nothing that can be judged"
    )]
    Missing(&'static str),
    /// A value is none.
    #[error("`{field}` is not {what}: {value:?}")]
    Value {
        /// Of which field.
        field: &'static str,
        /// What it should be.
        what: &'static str,
        /// The beginning of what is there.
        value: String,
    },
    /// It is a log of something else.
    #[error("a Zeek log of {0:?}; what can be judged is conn.log and open_conn.log")]
    Path(String),
    /// A line comes before the columns are named.
    #[error("a line before `#fields`, which names its columns; take the head of the log with it")]
    NoFields,
    /// It does not have as many values as columns are named.
    #[error("{is} values in {expected} columns; the line was changed, or the wrong `#fields` is above it")]
    Columns {
        /// How many columns there are.
        expected: usize,
        /// How many values.
        is: usize,
    },
    /// A line of the head says nothing that can be read.
    #[error("`{0}` in the head of the log has no value")]
    Header(&'static str),
    /// It is not JSON, or not of this shape.
    #[error("not a line of a conn.log: {0}")]
    Json(serde_json::Error),
}

/// The values of a line as text, of whichever format. `None`: unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'l> {
    pub(super) ts: Option<Cow<'l, str>>,
    pub(super) uid: Option<Cow<'l, str>>,
    pub(super) orig_h: Option<Cow<'l, str>>,
    pub(super) orig_p: Option<Cow<'l, str>>,
    pub(super) resp_h: Option<Cow<'l, str>>,
    pub(super) resp_p: Option<Cow<'l, str>>,
    pub(super) proto: Option<Cow<'l, str>>,
    pub(super) duration: Option<Cow<'l, str>>,
    pub(super) orig_bytes: Option<Cow<'l, str>>,
    pub(super) resp_bytes: Option<Cow<'l, str>>,
    pub(super) conn_state: Option<Cow<'l, str>>,
    pub(super) local_orig: Option<Cow<'l, str>>,
    pub(super) local_resp: Option<Cow<'l, str>>,
    pub(super) history: Option<Cow<'l, str>>,
}

/// `conn_state`: what Zeek saw of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No answer.
    S0,
    /// Established, and no end was seen.
    S1,
    /// Established, closed by the originator; no answer to that was seen.
    S2,
    /// Established, closed by the responder; likewise.
    S3,
    /// Established and closed.
    Sf,
    /// Refused.
    Rej,
    /// Established, reset by the originator.
    Rsto,
    /// Established, reset by the responder.
    Rstr,
    /// The originator gave up with a reset before an answer.
    Rstos0,
    /// The responder reset what it had answered; no SYN was seen.
    Rstrh,
    /// The originator closed before an answer.
    Sh,
    /// The responder closed what it had answered; no SYN was seen.
    Shr,
    /// It was there before it was seen.
    Oth,
}

impl State {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "S0" => Self::S0,
            "S1" => Self::S1,
            "S2" => Self::S2,
            "S3" => Self::S3,
            "SF" => Self::Sf,
            "REJ" => Self::Rej,
            "RSTO" => Self::Rsto,
            "RSTR" => Self::Rstr,
            "RSTOS0" => Self::Rstos0,
            "RSTRH" => Self::Rstrh,
            "SH" => Self::Sh,
            "SHR" => Self::Shr,
            "OTH" => Self::Oth,
            _ => return None,
        })
    }
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Originator,
    Responder,
}

/// A TCP connection. Small: a day of a busy network has millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its first packet.
    pub(super) ts: WallNs,
    /// From its first packet to its last.
    pub(super) duration: Option<DurationNs>,
    /// Payload bytes that the originator and the responder sent.
    pub(super) bytes: Option<(u64, u64)>,
    /// A hash of `uid`; 0: it has none.
    pub(super) uid: u64,
    pub(super) orig: IpAddr,
    pub(super) resp: IpAddr,
    pub(super) orig_port: u16,
    pub(super) resp_port: u16,
    pub(super) state: State,
    /// Who closed first, where the history tells.
    pub(super) closed_first: Option<Side>,
    pub(super) local_orig: Option<bool>,
    pub(super) local_resp: Option<bool>,
    /// It is still open: a line of a log of open connections.
    pub(super) is_open: bool,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A TCP connection.
    Tcp(Record),
    /// Something of another protocol.
    Other(String),
}

impl Told {
    pub(super) fn of(fields: &Fields<'_>, is_open: bool) -> Result<Self, ZeekError> {
        let proto = need("proto", fields.proto.as_deref())?;
        if proto != "tcp" {
            return Ok(Self::Other(shortened(proto)));
        }
        let ts = need("ts", fields.ts.as_deref())?;
        let ts = time(ts).ok_or_else(|| wrong("ts", "a time", ts))?;
        let state = need("conn_state", fields.conn_state.as_deref())?;
        let state = State::of(state).ok_or_else(|| wrong("conn_state", "a state of a connection", state))?;
        let duration = fields.duration.as_deref().map(|text| {
            // Packets that came out of order make it negative.
            let span = if text.starts_with('-') { Some(0) } else { seconds(text) };
            span.map(DurationNs).ok_or_else(|| wrong("duration", "a number of seconds", text))
        });
        let bytes = |field, text: Option<&str>| {
            text.map(|text| text.parse().map_err(|_| wrong(field, "a number of bytes", text))).transpose()
        };
        let sent = bytes("orig_bytes", fields.orig_bytes.as_deref())?;
        let received = bytes("resp_bytes", fields.resp_bytes.as_deref())?;
        Ok(Self::Tcp(Record {
            ts,
            duration: duration.transpose()?,
            bytes: sent.zip(received),
            uid: fields.uid.as_deref().map_or(0, hash),
            orig: address("id.orig_h", fields.orig_h.as_deref())?,
            resp: address("id.resp_h", fields.resp_h.as_deref())?,
            orig_port: port("id.orig_p", fields.orig_p.as_deref())?,
            resp_port: port("id.resp_p", fields.resp_p.as_deref())?,
            state,
            closed_first: fields.history.as_deref().and_then(closed_first),
            local_orig: flag("local_orig", fields.local_orig.as_deref())?,
            local_resp: flag("local_resp", fields.local_resp.as_deref())?,
            is_open,
        }))
    }
}

/// Whether a log of this path is one of connections that are still open; `None`: it is not of connections.
pub(super) fn is_of_open(path: &str) -> Result<bool, ZeekError> {
    match path {
        "open_conn" | "conn_long" => Ok(true),
        path if path == "conn" || path.starts_with("conn-") || path.starts_with("conn_") => Ok(false),
        path => Err(ZeekError::Path(shortened(path))),
    }
}

fn need<'l>(field: &'static str, value: Option<&'l str>) -> Result<&'l str, ZeekError> {
    value.ok_or(ZeekError::Missing(field))
}

fn wrong(field: &'static str, what: &'static str, value: &str) -> ZeekError {
    ZeekError::Value { field, what, value: shortened(value) }
}

fn shortened(value: &str) -> String {
    value.chars().take(SHOWN).collect()
}

fn address(field: &'static str, value: Option<&str>) -> Result<IpAddr, ZeekError> {
    let text = need(field, value)?;
    text.parse().map(|ip| canonical_ip(ip).0).map_err(|_| wrong(field, "an address", text))
}

fn port(field: &'static str, value: Option<&str>) -> Result<u16, ZeekError> {
    let text = need(field, value)?;
    text.parse().map_err(|_| wrong(field, "a port", text))
}

fn flag(field: &'static str, value: Option<&str>) -> Result<Option<bool>, ZeekError> {
    match value {
        None => Ok(None),
        Some("T" | "true") => Ok(Some(true)),
        Some("F" | "false") => Ok(Some(false)),
        Some(other) => Err(wrong(field, "true or false", other)),
    }
}

/// Who sent the first FIN: capital letters are the originator's.
fn closed_first(history: &str) -> Option<Side> {
    history.bytes().find_map(|letter| match letter {
        b'F' => Some(Side::Originator),
        b'f' => Some(Side::Responder),
        _ => None,
    })
}

/// Not 0. One of the slow hashes: whoever wrote the log chose the texts.
fn hash(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish().max(1)
}

/// An instant after 1970: seconds, milliseconds, or RFC 3339.
fn time(text: &str) -> Option<WallNs> {
    if text.contains('T') {
        let at: Timestamp = text.parse().ok()?;
        return u64::try_from(at.as_nanosecond()).ok().filter(|at| *at > 0).map(WallNs);
    }
    let at = if text.parse().is_ok_and(|whole: u64| whole >= MILLISECONDS_FROM) {
        text.parse::<u64>().ok()?.checked_mul(1_000_000)?
    } else {
        seconds(text)?
    };
    // An end must fit, too.
    (at > 0 && at < u64::MAX / 2).then_some(WallNs(at))
}

/// Nanoseconds of a decimal number of seconds.
fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return from_float(text.parse().ok()?);
    }
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    whole.parse::<u64>().ok()?.checked_mul(SECOND)?.checked_add(nanos).filter(|ns| *ns < u64::MAX / 2)
}

#[expect(clippy::cast_sign_loss, reason = "it is positive")]
fn from_float(seconds: f64) -> Option<u64> {
    let ns = (seconds * 1e9).round();
    (0.0..9e18).contains(&ns).then_some(ns as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact() {
        for (text, expected) in [
            ("1591367999.305988", 1_591_367_999_305_988_000),
            ("1591367999", 1_591_367_999_000_000_000),
            ("1591367999305", 1_591_367_999_305_000_000),
            ("2020-06-05T14:39:59.305988Z", 1_591_367_999_305_988_000),
            ("2020-06-05T16:39:59+02:00", 1_591_367_999_000_000_000),
        ] {
            assert_eq!(time(text), Some(WallNs(expected)), "{text}");
        }
        for text in ["", "-1", "0", "now", "1e400", "inf", "NaN", "99999999999999999999", "1.2.3", "T"] {
            assert_eq!(time(text), None, "{text}");
        }
        assert_eq!(seconds("1.1e-05"), Some(11_000));
        assert_eq!(seconds("0.1234567899"), Some(123_456_789));
    }

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Record>() <= 112, "{}", size_of::<Record>());
    }

    #[test]
    fn the_first_fin_tells_who_closed() {
        assert_eq!(closed_first("ShADadfF"), Some(Side::Responder));
        assert_eq!(closed_first("^hADFf"), Some(Side::Originator));
        assert_eq!(closed_first("ShADadR"), None);
    }
}
