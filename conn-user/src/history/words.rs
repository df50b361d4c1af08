//! The names that tables have for values of the model.

use conn_common::hook::HookId;

use crate::event::names::{self, METHODS, Named as _, from_name};
use crate::flow::model::Method;

/// A method, its hook and its reason.
pub(super) type MethodWords = (&'static str, Option<&'static str>, Option<&'static str>);

pub(super) fn of_method(method: Method) -> MethodWords {
    let name = names::method(method);
    match method {
        Method::Hook(hook) => (name, Some(hook.label()), None),
        Method::Unknown(reason) => (name, None, Some(reason.name())),
        Method::Listener | Method::Closer | Method::FdTable => (name, None, None),
    }
}

/// `None`: it has no such names.
pub(super) fn method(method: &str, hook: Option<&str>, reason: Option<&str>) -> Option<Method> {
    let at = METHODS.iter().position(|name| *name == method)?;
    Some(match at {
        0 => Method::Hook(HookId::ALL.iter().copied().find(|known| Some(known.label()) == hook)?),
        1 => Method::Listener,
        2 => Method::Closer,
        3 => Method::FdTable,
        _ => Method::Unknown(from_name(reason?)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::model::UnknownReason;

    #[test]
    fn a_method_is_read_back() {
        let hooks = HookId::ALL.iter().map(|hook| Method::Hook(*hook));
        let reasons = UnknownReason::ALL.iter().map(|reason| Method::Unknown(*reason));
        for one in hooks.chain(reasons).chain([Method::Listener, Method::Closer, Method::FdTable]) {
            let (name, hook, reason) = of_method(one);
            assert_eq!(method(name, hook, reason), Some(one));
        }
        assert_eq!(method("hook", Some("nothing"), None), None);
        assert_eq!(method("guessed", None, None), None);
    }
}
