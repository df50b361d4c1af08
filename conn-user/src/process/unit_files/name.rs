//! Names of units: systemd.unit(5), and src/basic/unit-name.c.

use std::fmt::Write as _;

/// Longest name of a unit (`UNIT_NAME_MAX`).
const LONGEST: usize = 255;

/// Whether it is the name of a unit, a template or an instance: then it has none but letters, digits and `:-_.\@`.
pub fn is_valid(name: &str) -> bool {
    name.len() <= LONGEST
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
        && split_type(name).is_some_and(|(stem, _)| !stem.is_empty() && !stem.starts_with('@'))
}

/// `ssh.socket` as `ssh` and `socket`.
pub fn split_type(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.')
}

/// Whether it is a unit of this type (`slice`, `socket`, …).
pub fn is_a(name: &str, kind: &str) -> bool {
    split_type(name).is_some_and(|(_, own)| own == kind)
}

/// The template of an instance: `getty@.service` of `getty@tty1.service`; `None`: it is no instance.
pub fn template_of(name: &str) -> Option<String> {
    let (stem, kind) = split_type(name)?;
    let (prefix, instance) = stem.split_once('@')?;
    (!instance.is_empty()).then(|| format!("{prefix}@.{kind}"))
}

/// Whether it is a template, of which instances can be made.
pub fn is_template(name: &str) -> bool {
    split_type(name).is_some_and(|(stem, _)| stem.split_once('@').is_some_and(|(_, rest)| rest.is_empty()))
}

/// What is before the `@`, or before the type.
pub fn prefix(name: &str) -> &str {
    let stem = split_type(name).map_or(name, |(stem, _)| stem);
    stem.split_once('@').map_or(stem, |(prefix, _)| prefix)
}

/// What is behind the `@`; empty: of a template. `None`: it has none.
pub fn instance(name: &str) -> Option<&str> {
    Some(split_type(name)?.0.split_once('@')?.1)
}

/// The instance of a template (or of its alias).
pub fn instance_of(template: &str, instance: &str) -> Option<String> {
    let (stem, kind) = split_type(template)?;
    Some(format!("{}{instance}.{kind}", stem.strip_suffix('@').map(|prefix| format!("{prefix}@"))?))
}

/// The units whose `.d` folders concern a unit, the nearest first: itself, its template, and for each dash what is before
/// it. The type alone (`service.d`) comes after all of them (`unit_file_find_dirs` in src/shared/dropin.c).
pub fn drop_in_names(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let name = template_of(name).inspect(|template| names.push(template.clone()));
    let name = name.unwrap_or_else(|| names[0].clone());
    let Some((stem, kind)) = split_type(&name) else { return names };
    let (mut prefix, at) = stem.split_once('@').map_or((stem, ""), |(prefix, _)| (prefix, "@"));
    while let Some(dash) = prefix.trim_end_matches('-').rfind('-') {
        prefix = &prefix[..=dash];
        // A dash alone is no prefix, and the name of the root slice.
        if prefix.trim_matches('-').is_empty() {
            break;
        }
        names.push(format!("{prefix}{at}.{kind}"));
    }
    names
}

/// A slice and those that it is in, up to the root: `a-b.slice`, `a.slice`, `-.slice`.
pub fn slices(name: &str) -> Vec<String> {
    const ROOT: &str = "-.slice";
    let mut found = Vec::new();
    let mut stem = name.strip_suffix(".slice").filter(|stem| *stem != "-");
    while let Some(inner) = stem {
        found.push(format!("{inner}.slice"));
        stem = inner.rsplit_once('-').map(|(outer, _)| outer);
    }
    found.push(ROOT.to_owned());
    found
}

/// `unit_name_escape`: `/` becomes a dash; a dash, a leading dot and what no name may have becomes `\xNN`.
pub fn escape(text: &str) -> String {
    let mut out = String::new();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'/' => out.push('-'),
            b'.' if at > 0 => out.push('.'),
            b':' | b'_' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => {
                // Writing to a text cannot fail.
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out
}

/// Takes that back; `None`: it is not such a text.
pub fn unescape(text: &str) -> Option<String> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'-' => out.push(b'/'),
            b'\\' => {
                let [b'x', high, low, tail @ ..] = rest else { return None };
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                out.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                rest = tail;
            }
            byte => out.push(*byte),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_of_names() {
        assert_eq!(template_of("getty@tty1.service").as_deref(), Some("getty@.service"));
        assert_eq!(template_of("a@b.c@d.socket").as_deref(), Some("a@.socket"));
        assert_eq!((template_of("getty@.service"), template_of("ssh.service")), (None, None));
        assert!(
            is_template("getty@.service") && !is_template("getty@a.service") && !is_template("a.service")
        );
        assert_eq!((prefix("a-b@c.service"), prefix("a-b.service")), ("a-b", "a-b"));
        assert_eq!(
            (instance("a@b.service"), instance("a@.service"), instance("a.service")),
            (Some("b"), Some(""), None)
        );
        assert_eq!(instance_of("a@.service", "b").as_deref(), Some("a@b.service"));
        assert!(is_valid("a@b\\x2dc.service") && is_valid("-.slice"));
        assert!(
            !is_valid("a b.service")
                && !is_valid(".service")
                && !is_valid("service")
                && !is_valid("@a.service")
        );
    }

    #[test]
    fn folders_of_drop_ins() {
        assert_eq!(
            drop_in_names("foo-bar-baz.service"),
            ["foo-bar-baz.service", "foo-bar-.service", "foo-.service"]
        );
        assert_eq!(drop_in_names("a-b@c-d.service"), ["a-b@c-d.service", "a-b@.service", "a-@.service"]);
        assert_eq!(drop_in_names("ssh.socket"), ["ssh.socket"]);
        assert_eq!(drop_in_names("-.slice"), ["-.slice"]);
        assert_eq!(drop_in_names("user-.slice"), ["user-.slice"]);
    }

    #[test]
    fn slices_up_to_the_root() {
        assert_eq!(slices("a-b-c.slice"), ["a-b-c.slice", "a-b.slice", "a.slice", "-.slice"]);
        assert_eq!(slices("-.slice"), ["-.slice"]);
    }

    proptest! {
        #[test]
        fn escaped_and_back(text in ".{0,40}") {
            prop_assert_eq!(unescape(&escape(&text)), Some(text));
        }

        #[test]
        fn any_name(name in "[a-b@.\\\\-]{0,20}|.{0,20}") {
            let _ = (is_valid(&name), template_of(&name), prefix(&name), instance(&name), unescape(&name));
            prop_assert_eq!(&drop_in_names(&name)[0], &name);
            prop_assert!(slices(&name).last().is_some_and(|root| root == "-.slice"));
        }
    }
}
