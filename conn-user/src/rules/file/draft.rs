//! A rule as it was written, with what overrides changed.

use super::error::{At, Problem, Problems};
use super::shape;
use super::value::{Field, Node, Value, find};
use crate::filter::error::quoted;
use crate::filter::suggest::nearest;

/// Longest id.
const ID_MAX: usize = 128;

/// A rule as it was written.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) id: String,
    /// Its id, or where it has none, it.
    pub(super) at: At,
    /// Its keys, without `except`.
    pub(super) fields: Vec<Field>,
    /// What it excepts, with what overrides add.
    pub(super) except: Vec<Node>,
}

impl Draft {
    /// A `[[rule]]` or `[[override]]`.
    pub(super) fn new(what: &str, node: Node) -> Result<Self, Problem> {
        let Node { at, value: Value::Table(mut fields) } = node else {
            return Err(node.wrong(what, &format!("[[{what}]] and the keys below it")));
        };
        let Some(id) = find(&fields, "id") else {
            let help = "a name such as id = \"shells.network\", by which others may override it";
            return Err(Problem::new(&at, format!("this {what} has no `id`"), help));
        };
        let text = id.node.text("id", "a name in quotes")?;
        if !is_id(text) {
            let help = "an id is made of a-z, 0-9, `_`, `-` and dots, and begins with a letter";
            return Err(Problem::new(&id.node.at, format!("{} is no id", quoted(text)), help));
        }
        let (id, at) = (text.to_owned(), id.node.at.clone());
        let mut except = Vec::new();
        fields.retain(|field| {
            if field.name == "except" {
                except.extend(field.node.one_or_more().iter().cloned());
            }
            field.name != "except"
        });
        Ok(Self { id, at, fields, except })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Field> {
        find(&self.fields, name)
    }

    /// Sets what an override says.
    pub(super) fn change(&mut self, other: Self, problems: &mut Problems) {
        self.except.extend(other.except);
        for field in other.fields {
            if field.name == "id" {
                continue;
            }
            if !shape::OVERRIDABLE.contains(&field.name.as_str()) {
                problems.push(not_overridable(&field));
                continue;
            }
            match self.fields.iter_mut().find(|own| own.name == field.name) {
                Some(own) => *own = field,
                None => self.fields.push(field),
            }
        }
    }
}

fn not_overridable(field: &Field) -> Problem {
    let known = shape::OVERRIDABLE.join(", ");
    let name = quoted(&field.name);
    if shape::any_key(&field.name) {
        let help =
            format!("write the whole rule with this id in a [[rule]] instead; an override may set {known}");
        return Problem::new(&field.at, format!("an override cannot set {name}"), help);
    }
    let help = match nearest(&field.name, shape::OVERRIDABLE.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? An override may set {known}"),
        None => format!("an override may set {known}"),
    };
    Problem::new(&field.at, format!("unknown key {name}"), help)
}

fn is_id(text: &str) -> bool {
    text.len() <= ID_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.'))
}
