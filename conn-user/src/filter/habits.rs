//! Other ways to write a word, which people bring from tcpdump, ss and Wireshark or copy from what conn shows. Each becomes words of
//! the grammar; what could mean several things is an error with the right words.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ast::{Form, Value, Word};
use super::key::Key;
use super::nets;
use crate::event::names;
use crate::process::placement::Runtime;

/// Keys of other programs, and the key here.
const SYNONYMS: &[(&str, &str)] = &[
    ("address", "ip"),
    ("argv", "arg"),
    ("binary", "exe"),
    ("cmdline", "arg"),
    ("command", "proc"),
    ("daddr", "dst"),
    ("direction", "dir"),
    ("dst_ip", "dst"),
    ("dst_port", "dport"),
    ("dstip", "dst"),
    ("dstport", "dport"),
    ("event", "kind"),
    ("executable", "exe"),
    ("image", "exe"),
    ("local", "laddr"),
    ("login", "login_uid"),
    ("name", "proc"),
    ("path", "exe"),
    ("peer", "raddr"),
    ("process", "proc"),
    ("program", "proc"),
    ("protocol", "proto"),
    ("remote", "raddr"),
    ("saddr", "src"),
    ("service", "unit"),
    ("src_ip", "src"),
    ("src_port", "sport"),
    ("srcip", "src"),
    ("srcport", "sport"),
    ("status", "state"),
    ("type", "kind"),
    ("username", "user"),
];

/// The key that has this name in other programs.
pub(super) fn synonym(name: &str) -> Option<&'static str> {
    let at = SYNONYMS.binary_search_by(|(other, _)| (*other).cmp(&name.to_ascii_lowercase())).ok()?;
    SYNONYMS.get(at).map(|(_, key)| *key)
}

/// A word in two parts, as tcpdump has them: `port 443`, `host 10.0.0.1`, `dst port 443`. Returns the key, and where in `rest`
/// its value begins. `None`: what follows is no value.
pub(super) fn spaced(rest: &str) -> Option<(Key, usize)> {
    let mut tokens = Tokens { rest, at: 0 };
    let (name, _) = tokens.next()?;
    let (value, at) = tokens.next()?;
    let (key, value, at) = match (name, value) {
        ("src" | "dst", "port" | "host" | "net") if tokens.clone().next().is_some() => {
            let (key, (third, at)) = (side(name, value)?, tokens.next()?);
            (key, third, at)
        }
        ("host" | "net", _) if is_address(value) => (Key::Ip, value, at),
        _ => (Key::from_name(name)?, value, at),
    };
    let is_word = value.contains(':') && !value.starts_with('"') && !is_address(value);
    let is_other = matches!(value, "and" | "or" | "not" | "&&" | "||") || value.starts_with(['-', '!', '(']);
    (!is_word && !is_other).then_some((key, at))
}

fn side(name: &str, what: &str) -> Option<Key> {
    Key::from_name(match (name, what) {
        ("src", "port") => "sport",
        ("dst", "port") => "dport",
        _ => name,
    })
}

#[derive(Clone)]
struct Tokens<'a> {
    rest: &'a str,
    at: usize,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (&'a str, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.rest.get(self.at..)?;
        let begin = self.at + left.len() - left.trim_start().len();
        let left = self.rest.get(begin..)?;
        let length = left.find(char::is_whitespace).unwrap_or(left.len());
        self.at = begin + length;
        (length > 0).then(|| (&left[..length], begin))
    }
}

/// Whether a value is addresses or networks.
pub(super) fn is_address(text: &str) -> bool {
    text.split(',').all(|one| one.parse::<IpAddr>().is_ok() || one.parse::<IpNet>().is_ok())
}

/// The key of the port of the end whose address this key looks at.
pub(super) const fn port_of(key: Key) -> Option<Key> {
    Some(match key {
        Key::Ip => Key::Port,
        Key::Laddr => Key::Lport,
        Key::Raddr => Key::Rport,
        Key::Src => Key::Sport,
        Key::Dst => Key::Dport,
        _ => return None,
    })
}

/// A word as the grammar has it, and a second one where its value says two things: `dst:10.0.0.1:443` is an end of a connection, and
/// `unit:docker:0f7d84f32c4d` is what the table of `conn list` shows of a container.
pub(super) fn understood(word: Word) -> (Word, Option<Word>) {
    if word.key == Key::Unit
        && let Some(ids) = word.values.iter().map(container).collect::<Option<Vec<_>>>()
    {
        return (Word { key: Key::Container, values: ids, ..word }, None);
    }
    // Negated they would be two conditions, of which one is enough; and of `ip` the port might be that of the other end.
    let port = port_of(word.key).filter(|port| *port != Key::Port && !word.negated);
    if let (Some(port), [value]) = (port, &*word.values)
        && value.form == Form::Bare
        && let Some((address, number)) = nets::end(&value.text)
    {
        let of = |text: String| vec![Value { text, ..value.clone() }];
        let second = Word { negated: false, key: port, values: of(number.to_string()) };
        return (Word { values: of(address), ..word }, Some(second));
    }
    (word, None)
}

fn container(value: &Value) -> Option<Value> {
    let (runtime, id) = value.text.split_once(':').filter(|_| value.form == Form::Bare)?;
    let is_runtime = runtime == "container" || names::from_name::<Runtime>(runtime).is_some();
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_runtime && is_id).then(|| Value { text: id.to_owned(), ..value.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;

    fn understood(text: &str) -> String {
        Filter::new(text).unwrap_or_else(|error| panic!("{error}")).to_string()
    }

    #[test]
    fn what_is_unambiguous_is_understood() {
        for (text, expected) in [
            ("port 443", "port:443"),
            ("port 80,443 and not proc nginx", "port:80,443 -proc:nginx"),
            ("host 10.0.0.1", "ip:10.0.0.1"),
            ("host:10.0.0.1,10.0.0.2", "ip:10.0.0.1,10.0.0.2"),
            ("net 10.0.0.0/8 && dst port 443", "ip:10.0.0.0/8 dport:443"),
            ("src host 2001:db8::1", "src:2001:db8::1"),
            ("dst internal", "dst:internal"),
            ("proc \"tmux: server\"", "proc:\"tmux: server\""),
            ("not port:443", "-port:443"),
            ("!port:443 !proc:x", "-port:443 -proc:x"),
            ("not port 443", "-port:443"),
            ("! port:443", "-port:443"),
            ("user:0", "user:0"),
            ("dst:10.0.0.1:443", "dst:10.0.0.1 dport:443"),
            ("laddr:[::1]:80 proc:x", "laddr:::1 lport:80 proc:x"),
            ("unit:docker:0f7d84f32c4d", "container:0f7d84f32c4d"),
            ("-unit:containerd:0f7d84f32c4d", "-container:0f7d84f32c4d"),
            ("unit:docker.service", "unit:docker.service"),
            ("proc:not", "proc:not"),
        ] {
            assert_eq!(understood(text), expected, "{text}");
            assert_eq!(understood(expected), expected, "it means itself");
        }
    }

    /// As numbers have no name, a number is a uid.
    #[test]
    fn a_user_may_be_a_number() {
        let matching = |text: &str| {
            let filter = Filter::new(text).unwrap_or_else(|error| panic!("{error}"));
            let all = crate::event::samples::all();
            all.iter().filter(|event| filter.matches(event)).map(|event| event.seq).collect::<Vec<_>>()
        };
        assert_eq!(matching("user:33 kind:exit"), [20]);
        assert_eq!(matching("user:33,1000 kind:exit"), matching("uid:33,1000 kind:exit"));
        assert_eq!(matching("kind:exit user:\"33\""), Vec::<u64>::new(), "in quotes it is a name");
    }

    #[test]
    fn the_synonyms_are_sorted_and_mean_keys() {
        assert!(SYNONYMS.is_sorted_by_key(|(name, _)| *name));
        for (name, key) in SYNONYMS {
            assert!(Key::from_name(name).is_none() && Key::from_name(key).is_some(), "{name}");
            assert_eq!(synonym(name), Some(*key));
        }
    }
}
