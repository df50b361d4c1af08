//! Lines of JSON, as Zeek writes them with `LogAscii::use_json`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ZeekError;
use super::fields::{Field, Fields};
use super::record::{Reported, is_of_open};

/// Names the log that a line is of, where several are written to one file.
const PATH: &str = "_path";

/// The values that are looked at, as they are written. `null` is as good as none.
#[derive(Default)]
struct Line<'l> {
    path: Option<&'l RawValue>,
    /// The ends, where they are in an object of their own.
    id: Option<&'l RawValue>,
    values: [Option<&'l RawValue>; Field::ALL.len()],
}

/// The parts of an `id` that is an object.
#[derive(serde::Deserialize)]
struct Ends<'l> {
    #[serde(borrow)]
    orig_h: Option<&'l RawValue>,
    #[serde(borrow)]
    orig_p: Option<&'l RawValue>,
    #[serde(borrow)]
    resp_h: Option<&'l RawValue>,
    #[serde(borrow)]
    resp_p: Option<&'l RawValue>,
}

enum Key {
    Path,
    Id,
    Of(Field),
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Name;

        impl Visitor<'_> for Name {
            type Value = Key;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a key")
            }

            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(match Field::of(name.as_bytes()) {
                    Some(field) => Key::Of(field),
                    None if name == PATH => Key::Path,
                    None if name == "id" => Key::Id,
                    None => Key::Other,
                })
            }
        }

        from.deserialize_identifier(Name)
    }
}

impl<'de> Deserialize<'de> for Line<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Line<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Line<'de>, M::Error> {
                let mut line = Line::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Path => line.path = map.next_value()?,
                        Key::Id => line.id = map.next_value()?,
                        Key::Of(field) => line.values[field as usize] = map.next_value()?,
                        Key::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(line)
            }
        }

        from.deserialize_map(Keys)
    }
}

/// Reads a line.
pub(super) fn read(line: &[u8]) -> Result<Reported, ZeekError> {
    let mut line: Line<'_> = serde_json::from_slice(line).map_err(ZeekError::Json)?;
    let is_open = match line.path {
        Some(path) => match is_of_open(&text(PATH, path)?) {
            Err(ZeekError::Path(other)) => return Ok(Reported::Elsewhere(other)),
            is_open => is_open?,
        },
        None => false,
    };
    if let Some(id) = line.id.filter(|id| id.get().starts_with('{')) {
        let ends: Ends<'_> = serde_json::from_str(id.get()).map_err(ZeekError::Json)?;
        for (field, value) in [
            (Field::OrigH, ends.orig_h),
            (Field::OrigP, ends.orig_p),
            (Field::RespH, ends.resp_h),
            (Field::RespP, ends.resp_p),
        ] {
            line.values[field as usize] = value.or(line.values[field as usize]);
        }
    }
    let mut fields = Fields::default();
    for (field, value) in Field::ALL.into_iter().zip(line.values) {
        fields.set(field, value.map(|raw| text(field.name(), raw)).transpose()?);
    }
    Reported::of(&fields, is_open)
}

/// The text of a value: what a string says, a number or a truth value as it is written.
fn text<'l>(field: &'static str, value: &'l RawValue) -> Result<Cow<'l, str>, ZeekError> {
    let raw = value.get();
    match raw.as_bytes() {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Ok(Cow::Borrowed(&raw[1..raw.len() - 1])),
        [b'"', ..] => serde_json::from_str(raw).map(Cow::Owned).map_err(ZeekError::Json),
        [b'{' | b'[', ..] => Err(ZeekError::value(field, "one value", raw)),
        _ => Ok(Cow::Borrowed(raw)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &str = r#"{"ts":1591367999.305988,"uid":"CMdzit1AMNsmfAIiQc","id.orig_h":"192.168.4.76","id.orig_p":36844,"id.resp_h":"192.168.4.1","id.resp_p":53,"proto":"tcp","service":"dns","duration":0.06,"orig_bytes":62,"resp_bytes":141,"conn_state":"SF","local_orig":true,"history":"ShADadfF","tunnel_parents":[]}"#;

    #[test]
    fn times_may_be_texts_and_values_may_be_absent() {
        let one = read(LINE.as_bytes()).expect("a line");
        let text = LINE.replace("1591367999.305988", "\"2020-06-05T14:39:59.305988Z\"");
        assert_eq!(one, read(text.as_bytes()).expect("a line"));
        let bare = LINE.replace("\"duration\":0.06,\"orig_bytes\":62,", "\"duration\":null,");
        let Reported::Tcp(bare) = read(bare.as_bytes()).expect("a line") else { panic!("tcp") };
        assert_eq!((bare.duration, bare.bytes, bare.local_resp), (None, None, None));
        let udp = LINE.replace("\"tcp\"", "\"\\u0075dp\"");
        assert_eq!(read(udp.as_bytes()).expect("a line"), Reported::Other("udp".to_owned()));
    }

    #[test]
    fn the_ends_may_be_named_and_nested_in_other_ways() {
        let one = read(LINE.as_bytes()).expect("a line");
        for separator in ["_", "::", "/"] {
            assert_eq!(one, read(LINE.replace("id.", &format!("id{separator}")).as_bytes()).expect("a line"));
        }
        let flat = "\"id.orig_h\":\"192.168.4.76\",\"id.orig_p\":36844,\"id.resp_h\":\"192.168.4.1\",\"id.resp_p\":53";
        let nested = format!("\"id\":{{{}}}", flat.replace("id.", ""));
        assert_eq!(one, read(LINE.replace(flat, &nested).as_bytes()).expect("a line"));
        assert_eq!(
            one,
            read(LINE.replace("\"ts\"", "\"id\":\"of a document\",\"ts\"").as_bytes()).expect("a line")
        );
        let dns = LINE.replace("\"uid\"", "\"_path\":\"dns\",\"uid\"");
        assert_eq!(read(dns.as_bytes()).expect("a line"), Reported::Elsewhere("dns".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, expected) in [
            ("\"SF\"", "\"XX\"", "`conn_state` is not a state of a connection: \"XX\""),
            ("\"conn_state\":\"SF\",", "", "no `conn_state`, which every line"),
            ("36844", "99999", "`id.orig_p` is not a port: \"99999\""),
            ("62", "[1]", "`orig_bytes` is not one value: \"[1]\""),
            ("}", "", "not a line of a conn.log: EOF"),
        ] {
            let error = read(LINE.replacen(from, to, 1).as_bytes()).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_line_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..320_usize) {
            let _ = read(&bytes);
            let mut line = LINE.as_bytes().to_vec();
            line.splice(at.min(line.len())..(at + 3).min(LINE.len()), bytes);
            let _ = read(&line);
        }
    }
}
