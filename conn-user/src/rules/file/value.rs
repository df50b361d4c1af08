//! TOML values with their places. The parser goes on behind an error, so one run finds all of them.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{At, Problem};
use crate::filter::amount;
use crate::units::DurationNs;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: At,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    /// `None`: it does not fit.
    Integer(Option<i64>),
    Float(f64),
    Bool(bool),
    Date,
    Array(Vec<Node>),
    Table(Vec<Field>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) at: At,
    pub(crate) node: Node,
}

/// Reads a text. With errors, the fields are what could be read all the same.
pub(super) fn parse(text: &str, number: usize) -> (Vec<Field>, Vec<Problem>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let problem = |error: toml::de::Error| Problem {
        at: At { text: number, span: error.span().unwrap_or(0..0) },
        message: format!("this is not TOML: {}", error.message()),
        help: help(error.message()),
    };
    (fields(table.into_inner(), number), errors.into_iter().map(problem).collect())
}

/// The remedy of an error that the parser has only named.
fn help(message: &str) -> Option<String> {
    let is_escape = message.contains("escape");
    is_escape.then(|| {
        r"in double quotes a backslash begins an escape: write filters in single quotes, as in match = 'arg:/\d+/'"
            .to_owned()
    })
}

fn fields(table: DeTable<'_>, number: usize) -> Vec<Field> {
    let field = |(key, value): (Spanned<_>, Spanned<DeValue<'_>>)| {
        let at = At { text: number, span: key.span() };
        let name: std::borrow::Cow<'_, str> = key.into_inner();
        Field { name: name.into_owned(), at, node: node(value, number) }
    };
    let mut fields: Vec<Field> = table.into_iter().map(field).collect();
    fields.sort_by_key(|field| field.at.span.start);
    fields
}

/// Recursion is bounded: the parser refuses deep nesting.
fn node(value: Spanned<DeValue<'_>>, number: usize) -> Node {
    let at = At { text: number, span: value.span() };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(integer) => {
            Value::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).ok())
        }
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(bool) => Value::Bool(bool),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(array) => Value::Array(array.into_iter().map(|item| node(item, number)).collect()),
        DeValue::Table(table) => Value::Table(fields(table, number)),
    };
    Node { at, value }
}

impl Node {
    const fn what(&self) -> &'static str {
        match self.value {
            Value::Text(_) => "a text",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Bool(_) => "true or false",
            Value::Date => "a date",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }

    /// `key` takes something else.
    pub(crate) fn wrong(&self, key: &str, takes: &str) -> Problem {
        Problem::new(&self.at, format!("`{key}` is {} here", self.what()), format!("write {takes}"))
    }

    pub(crate) fn text(&self, key: &str, takes: &str) -> Result<&str, Problem> {
        match &self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.wrong(key, takes)),
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Result<bool, Problem> {
        match self.value {
            Value::Bool(bool) => Ok(bool),
            _ => Err(self.wrong(key, &format!("{key} = true or {key} = false"))),
        }
    }

    /// A number from 1.
    pub(crate) fn count(&self, key: &str) -> Result<u32, Problem> {
        let takes = "a whole number from 1 to 4294967295";
        match self.value {
            Value::Integer(Some(number)) => {
                u32::try_from(number).ok().filter(|number| *number > 0).ok_or_else(|| {
                    Problem::new(&self.at, format!("`{key}` cannot be {number}"), format!("write {takes}"))
                })
            }
            Value::Integer(None) => {
                Err(Problem::new(&self.at, format!("`{key}` is too large"), format!("write {takes}")))
            }
            _ => Err(self.wrong(key, takes)),
        }
    }

    /// A number of bytes, at least 1.
    pub(crate) fn bytes(&self, key: &str) -> Result<u64, Problem> {
        let takes = "a number of bytes in quotes: \"500M\", \"1G\"";
        let text = self.text(key, takes)?;
        amount::bytes(text).filter(|bytes| *bytes > 0).ok_or_else(|| {
            let message = format!("{} is no number of bytes", crate::filter::error::quoted(text));
            Problem::new(&self.at, message, format!("write {takes}"))
        })
    }

    /// A number from 0 to 1.
    pub(crate) fn score(&self, key: &str) -> Result<f64, Problem> {
        let number = match self.value {
            Value::Float(number) => Some(number),
            Value::Integer(Some(0)) => Some(0.0),
            Value::Integer(Some(1)) => Some(1.0),
            _ => None,
        };
        let takes = "a number from 0 to 1, e.g. 0.9";
        number.filter(|number| (0.0..=1.0).contains(number)).ok_or_else(|| match self.value {
            Value::Float(_) | Value::Integer(_) => {
                Problem::new(&self.at, format!("`{key}` is not between 0 and 1"), format!("write {takes}"))
            }
            _ => self.wrong(key, takes),
        })
    }

    pub(crate) fn duration(&self, key: &str, zero: bool) -> Result<DurationNs, Problem> {
        let takes = "a time in quotes, with units: \"30s\", \"10m\", \"1h30m\", \"7d\"";
        let text = self.text(key, takes)?;
        let wrong = |message: String| Problem::new(&self.at, message, format!("write {takes}"));
        match amount::duration(text) {
            None => Err(wrong(format!("{} is no time", crate::filter::error::quoted(text)))),
            Some(DurationNs(0)) if !zero => Err(wrong(format!("`{key}` must be longer than nothing"))),
            Some(duration) => Ok(duration),
        }
    }

    /// The values of an array.
    pub(crate) fn array(&self, key: &str, takes: &str) -> Result<&[Self], Problem> {
        match &self.value {
            Value::Array(nodes) => Ok(nodes),
            _ => Err(self.wrong(key, takes)),
        }
    }

    /// The value, or the values of an array.
    pub(crate) fn one_or_more(&self) -> &[Self] {
        match &self.value {
            Value::Array(nodes) => nodes,
            _ => std::slice::from_ref(self),
        }
    }
}

/// The value of a key.
pub(crate) fn find<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    fields.iter().find(|field| field.name == name)
}
