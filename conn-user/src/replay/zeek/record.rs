//! A connection as a line of `conn.log` reports it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use super::error::{ZeekError, shortened};
use super::fields::{Field, Fields};
use crate::event::time::parse as rfc3339;
use crate::flow::model::canonical_ip;
use crate::units::{DurationNs, WallNs};

/// A time of so many seconds is not one, but of milliseconds (`JSON::TS_MILLIS`): it would be in the year 5138.
const MILLISECONDS_FROM: u64 = 100_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// `conn_state`: what Zeek saw of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No answer.
    S0,
    /// Established, and no end was seen.
    S1,
    /// Established, closed by the originator; no answer to that was seen.
    S2,
    /// Established, closed by the responder; no answer to that was seen.
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
    /// Who closed first, where the history reports.
    pub(super) closed_first: Option<Side>,
    pub(super) local_orig: Option<bool>,
    pub(super) local_resp: Option<bool>,
    /// It is still open: a line of a log of open connections.
    pub(super) is_open: bool,
}

/// What a line reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    /// A TCP connection.
    Tcp(Record),
    /// Something of another protocol.
    Other(String),
    /// A line of another log, by its name, where several are in one stream.
    Elsewhere(String),
}

impl Reported {
    pub(super) fn of(fields: &Fields<'_>, is_open: bool) -> Result<Self, ZeekError> {
        let other = |proto: &str| Some((proto != "tcp").then(|| shortened(proto)));
        if let Some(proto) = fields.need(Field::Proto, "a protocol", other)? {
            return Ok(Self::Other(proto));
        }
        let address = |field| fields.need(field, "an address", address);
        let port = |field| fields.need(field, "a port", |text| text.parse().ok());
        let bytes = |field| fields.read(field, "a number of bytes", |text| text.parse().ok());
        let flag = |field| fields.read(field, "true or false", flag);
        Ok(Self::Tcp(Record {
            ts: fields.need(Field::Ts, "a time", time)?,
            duration: fields.read(Field::Duration, "a number of seconds", duration)?,
            bytes: bytes(Field::OrigBytes)?.zip(bytes(Field::RespBytes)?),
            uid: fields.get(Field::Uid).map_or(0, hash),
            orig: address(Field::OrigH)?,
            resp: address(Field::RespH)?,
            orig_port: port(Field::OrigP)?,
            resp_port: port(Field::RespP)?,
            state: fields.need(Field::ConnState, "a state of a connection", State::of)?,
            closed_first: fields.get(Field::History).and_then(closed_first),
            local_orig: flag(Field::LocalOrig)?,
            local_resp: flag(Field::LocalResp)?,
            is_open,
        }))
    }
}

/// Whether a log of this path is one of connections that are still open; an error: it is of something else.
pub(super) fn is_of_open(path: &str) -> Result<bool, ZeekError> {
    match path {
        "open_conn" | "conn_long" => Ok(true),
        path if path == "conn" || path.starts_with("conn-") || path.starts_with("conn_") => Ok(false),
        path => Err(ZeekError::Path(shortened(path))),
    }
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|ip| canonical_ip(ip).0)
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "T" | "true" => Some(true),
        "F" | "false" => Some(false),
        _ => None,
    }
}

/// Packets that came out of order make it negative.
fn duration(text: &str) -> Option<DurationNs> {
    if text.starts_with('-') { Some(DurationNs(0)) } else { seconds(text).map(DurationNs) }
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
    let at = if text.contains('T') {
        rfc3339(text)?.0
    } else if let Some(millis) = text.parse().ok().filter(|whole: &u64| *whole >= MILLISECONDS_FROM) {
        millis.checked_mul(1_000_000)?
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
    fn the_first_fin_reports_who_closed() {
        assert_eq!(closed_first("ShADadfF"), Some(Side::Responder));
        assert_eq!(closed_first("^hADFf"), Some(Side::Originator));
        assert_eq!(closed_first("ShADadR"), None);
    }
}
