//! Whether a rule has the keys that one of its shape must have, and none that it may not.

use super::compile::Compiler;
use super::draft::Draft;
use super::error::Problem;
use super::shape::{COMMON, SHAPES, Shape, Without, any_key};
use super::value::Field;
use crate::filter::error::quoted;
use crate::filter::suggest::nearest;

impl Compiler<'_> {
    /// Keys that do not belong there, and such that are missing. `None`: what it should have is not known.
    pub(super) fn keys(&mut self, draft: &Draft, shape: Option<&Shape>) {
        for field in &draft.fields {
            match shape {
                Some(shape) if shape.every_key().any(|key| key.name == field.name) => {}
                None if any_key(&field.name) => {}
                _ => self.misplaced(field, shape),
            }
        }
        let own = shape.map_or(&[][..], |shape| shape.keys);
        // Who reads a draft reports that it has no `id`, and who looks for its shape that it has no `kind` or `find`.
        let common = COMMON.iter().filter(|key| !matches!(key.name, "id" | "kind" | "find"));
        for key in common.chain(own) {
            if key.default == Without::Required && draft.get(key.name).is_none() {
                let () =
                    self.lacks(draft, key.name, &format!("{} ({})", key.takes, key.meaning)).unwrap_or(());
            }
        }
    }

    fn misplaced(&mut self, field: &Field, shape: Option<&Shape>) {
        let name = quoted(&field.name);
        let Some(shape) = shape else {
            let every = COMMON.iter().chain(SHAPES.iter().flat_map(|shape| shape.keys)).map(|key| key.name);
            let help = match nearest(&field.name, every) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "which keys there are depends on its `kind` and `find`".to_owned(),
            };
            self.problems.push(Problem::new(&field.at, format!("unknown key {name}"), help));
            return;
        };
        let own: Vec<&str> = shape.keys.iter().map(|key| key.name).collect();
        let every: Vec<&str> = shape.every_key().map(|key| key.name).collect();
        let words = shape.words();
        let its = if own.is_empty() { "none".to_owned() } else { own.join(", ") };
        let others: Vec<String> = SHAPES
            .iter()
            .filter(|other| other.keys.iter().any(|key| key.name == field.name))
            .map(Shape::words)
            .collect();
        let (message, help) = if others.is_empty() {
            let near = nearest(&field.name, every.iter().copied());
            let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
            let every = every.join(", ");
            (format!("unknown key {name}"), format!("{near}a rule of {words} has {every}"))
        } else {
            let help =
                format!("its own keys are: {its}; {name} belongs to a rule of {}", others.join(", or of "));
            (format!("a rule of {words} has no {name}"), help)
        };
        self.problems.push(Problem::new(&field.at, message, help));
    }
}
