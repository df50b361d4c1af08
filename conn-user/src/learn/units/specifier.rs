//! What `%i` and its parentage stand for ("SPECIFIERS" in systemd.unit(5)), as far as the unit's name reports.

use crate::process::unit_files::name;

/// A value with its specifiers replaced.
///
/// # Errors
/// Why one is not known.
pub(super) fn expand(value: &str, unit: &str) -> Result<String, String> {
    let (mut out, mut chars) = (String::new(), value.chars());
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => out.push('%'),
            Some(which) => out.push_str(&of(which, unit)?),
            None => return Err("it ends with a single %".to_owned()),
        }
    }
    Ok(out)
}

fn of(which: char, unit: &str) -> Result<String, String> {
    let unescaped = |text: &str| name::unescape(text).ok_or_else(|| format!("%{which} cannot be unescaped"));
    let last = |text: &'_ str| text.rsplit_once('-').map_or(text, |(_, last)| last).to_owned();
    if name::is_template(unit) && matches!(which, 'i' | 'I' | 'n' | 'N') {
        return Err(format!("%{which} is known of an instance only, and this is the template"));
    }
    let (prefix, instance) = (name::prefix(unit), name::instance(unit).unwrap_or_default());
    match which {
        'i' => Ok(instance.to_owned()),
        'I' => unescaped(instance),
        'n' => Ok(unit.to_owned()),
        'N' => Ok(name::split_type(unit).map_or(unit, |(stem, _)| stem).to_owned()),
        'p' => Ok(prefix.to_owned()),
        'P' => unescaped(prefix),
        'j' => Ok(last(prefix)),
        'J' => unescaped(&last(prefix)),
        _ => Err(format!("%{which} is known to systemd alone, when it starts the unit")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_name_reports() {
        let of = |value: &str| expand(value, "a-b@c\\x2dd.service").expect("known");
        assert_eq!(of("%i %I %n %N"), "c\\x2dd c-d a-b@c\\x2dd.service a-b@c\\x2dd");
        assert_eq!(of("%p %P %j %J 1%%"), "a-b a/b b b 1%");
        assert_eq!(expand("%i.", "a.service").as_deref(), Ok("."));
    }

    #[test]
    fn what_it_does_not() {
        for (value, unit) in
            [("%H", "a.service"), ("%i", "a@.service"), ("1%", "a.service"), ("%I", "a@\\.service")]
        {
            assert!(expand(value, unit).is_err(), "{value}");
        }
        assert_eq!(expand("%p", "a@.service").as_deref(), Ok("a"));
    }
}
