//! Lines of JSON, as Zeek writes them with `LogAscii::use_json`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::record::{Fields, Told, ZeekError, is_of_open};

/// The keys that are looked at. Other ones are passed over.
#[derive(Deserialize)]
struct Line<'l> {
    #[serde(borrow, rename = "_path")]
    path: Option<&'l RawValue>,
    #[serde(borrow)]
    ts: Option<&'l RawValue>,
    #[serde(borrow)]
    uid: Option<&'l RawValue>,
    #[serde(borrow, rename = "id.orig_h")]
    orig_h: Option<&'l RawValue>,
    #[serde(borrow, rename = "id.orig_p")]
    orig_p: Option<&'l RawValue>,
    #[serde(borrow, rename = "id.resp_h")]
    resp_h: Option<&'l RawValue>,
    #[serde(borrow, rename = "id.resp_p")]
    resp_p: Option<&'l RawValue>,
    #[serde(borrow)]
    proto: Option<&'l RawValue>,
    #[serde(borrow)]
    duration: Option<&'l RawValue>,
    #[serde(borrow)]
    orig_bytes: Option<&'l RawValue>,
    #[serde(borrow)]
    resp_bytes: Option<&'l RawValue>,
    #[serde(borrow)]
    conn_state: Option<&'l RawValue>,
    #[serde(borrow)]
    local_orig: Option<&'l RawValue>,
    #[serde(borrow)]
    local_resp: Option<&'l RawValue>,
    #[serde(borrow)]
    history: Option<&'l RawValue>,
}

/// Reads a line.
pub(super) fn read(line: &[u8]) -> Result<Told, ZeekError> {
    let line: Line<'_> = serde_json::from_slice(line).map_err(ZeekError::Json)?;
    let is_open = text("_path", line.path)?.map_or(Ok(false), |path| is_of_open(&path))?;
    let fields = Fields {
        ts: text("ts", line.ts)?,
        uid: text("uid", line.uid)?,
        orig_h: text("id.orig_h", line.orig_h)?,
        orig_p: text("id.orig_p", line.orig_p)?,
        resp_h: text("id.resp_h", line.resp_h)?,
        resp_p: text("id.resp_p", line.resp_p)?,
        proto: text("proto", line.proto)?,
        duration: text("duration", line.duration)?,
        orig_bytes: text("orig_bytes", line.orig_bytes)?,
        resp_bytes: text("resp_bytes", line.resp_bytes)?,
        conn_state: text("conn_state", line.conn_state)?,
        local_orig: text("local_orig", line.local_orig)?,
        local_resp: text("local_resp", line.local_resp)?,
        history: text("history", line.history)?,
    };
    Told::of(&fields, is_open)
}

/// The text of a value: what a string says, a number or a truth value as it is written. `null`: unset.
fn text<'l>(field: &'static str, value: Option<&'l RawValue>) -> Result<Option<Cow<'l, str>>, ZeekError> {
    let Some(raw) = value.map(RawValue::get) else { return Ok(None) };
    match raw.as_bytes() {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            Ok(Some(Cow::Borrowed(&raw[1..raw.len() - 1])))
        }
        [b'"', ..] => {
            serde_json::from_str(raw).map(|text: String| Some(Cow::Owned(text))).map_err(ZeekError::Json)
        }
        [b'{' | b'[', ..] => {
            Err(ZeekError::Value { field, what: "one value", value: raw.chars().take(20).collect() })
        }
        b"null" => Ok(None),
        _ => Ok(Some(Cow::Borrowed(raw))),
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
        let Told::Tcp(bare) = read(bare.as_bytes()).expect("a line") else { panic!("tcp") };
        assert_eq!((bare.duration, bare.bytes, bare.local_resp), (None, None, None));
        let udp = LINE.replace("\"tcp\"", "\"\\u0075dp\"");
        assert_eq!(read(udp.as_bytes()).expect("a line"), Told::Other("udp".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, expected) in [
            ("\"SF\"", "\"XX\"", "`conn_state` is not a state of a connection: \"XX\""),
            ("\"conn_state\":\"SF\",", "", "no `conn_state`, which every line"),
            ("36844", "99999", "`id.orig_p` is not a port: \"99999\""),
            ("62", "[1]", "`orig_bytes` is not one value: \"[1]\""),
            ("\"uid\"", "\"_path\":\"dns\",\"uid\"", "a Zeek log of \"dns\";"),
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
