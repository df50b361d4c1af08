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
    /// Empty: missing or invalid.
    pub(super) id: String,
    /// The place of its id; without one, of the rule.
    pub(super) at: At,
    /// Its keys, without `except`.
    pub(super) fields: Vec<Field>,
    /// What it excepts, with what overrides add.
    pub(super) except: Vec<Node>,
}

impl Draft {
    /// A `[[rule]]` or `[[override]]`. With a wrong id, which is reported, it is read all the same, for what else is wrong with it.
    pub(super) fn new(what: &str, node: Node, problems: &mut Problems) -> Option<Self> {
        let Node { at, value: Value::Table(mut fields) } = node else {
            problems.push(node.wrong(what, &format!("[[{what}]] and the keys below it")));
            return None;
        };
        let (id, at) = match id(what, &at, &fields) {
            Ok(found) => found,
            Err(problem) => {
                let at = problem.at.clone();
                problems.push(problem);
                (String::new(), at)
            }
        };
        let mut except = Vec::new();
        fields.retain(|field| {
            if field.name == "except" {
                except.extend(field.node.one_or_more().iter().cloned());
            }
            field.name != "except"
        });
        Some(Self { id, at, fields, except })
    }

    /// Returns whether it has a valid id.
    pub(super) const fn is_named(&self) -> bool {
        !self.id.is_empty()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Field> {
        find(&self.fields, name)
    }

    /// Whether a key is `true`.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|field| matches!(field.node.value, Value::Bool(true)))
    }

    /// Returns whether it is enabled: `enabled` is not `false`.
    pub(super) fn is_enabled(&self) -> bool {
        self.get("enabled").is_none_or(|field| !matches!(field.node.value, Value::Bool(false)))
    }

    /// Reports which keys an override may not have.
    pub(super) fn check_override(&self, problems: &mut Problems) {
        for field in self.fields.iter().filter(|field| field.name != "id" && !is_overridable(field)) {
            problems.push(not_overridable(field));
        }
    }

    /// Sets what an override says.
    pub(super) fn change(&mut self, other: Self) {
        self.except.extend(other.except);
        for field in other.fields.into_iter().filter(is_overridable) {
            match self.fields.iter_mut().find(|own| own.name == field.name) {
                Some(own) => *own = field,
                None => self.fields.push(field),
            }
        }
    }
}

/// The id of a rule or override, and its place.
fn id(what: &str, at: &At, fields: &[Field]) -> Result<(String, At), Problem> {
    let Some(id) = find(fields, "id") else {
        let help = "a name such as id = \"shells.network\", by which others may override it";
        return Err(Problem::new(at, format!("this {what} has no `id`"), help));
    };
    let text = id.node.text("id", "a name in quotes")?;
    if !is_id(text) {
        let help = "an id is made of a-z, 0-9, `_`, `-` and dots, and begins with a letter";
        return Err(Problem::new(&id.node.at, format!("{} is no id", quoted(text)), help));
    }
    Ok((text.to_owned(), id.node.at.clone()))
}

fn is_overridable(field: &Field) -> bool {
    shape::OVERRIDABLE.contains(&field.name.as_str())
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
