//! Values that have a form of their own in the schema.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::event::model::SCHEMA_VERSION;
use crate::event::names::{self, Named};
use crate::event::wire::{Instant, Process, Text};

/// One of the names of a type's values.
pub(crate) struct Name<T>(PhantomData<T>);

/// How an actor is known.
pub(crate) struct Method;

/// The label of a hook: a kernel brings new ones, so they are not listed.
pub(crate) struct Hook;

/// A flag that is only written where it is set.
pub(crate) struct True;

/// An object whose keys are not fixed.
pub(crate) struct Object;

/// The version of the events' schema.
pub(crate) struct Version;

/// A time, RFC 3339 in UTC with nanoseconds.
pub(crate) struct Time;

/// The id of a connection or listener.
pub(crate) struct ConnectionId;

/// The id of a process.
pub(crate) struct ProcessId;

/// The id of an alert.
pub(crate) struct AlertId;

/// A Community ID, version 1.
pub(crate) struct CommunityId;

/// A process, or the id of one that is written out before.
pub(crate) struct ProcessOrId;

fn pattern(pattern: &str) -> Schema {
    json_schema!({"type": "string", "pattern": pattern})
}

macro_rules! inline {
    ($type:ty, $schema:expr $(, of $parameter:ident: $bound:ident)?) => {
        impl $(<$parameter: $bound>)? JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

inline!(Name<T>, json_schema!({"type": "string", "enum": names::all::<T>()}), of T: Named);
inline!(Method, json_schema!({"type": "string", "enum": names::METHODS}));
inline!(Hook, json_schema!({"type": "string"}));
inline!(True, json_schema!({"const": true}));
inline!(Object, json_schema!({"type": "object"}));
inline!(Version, json_schema!({"const": SCHEMA_VERSION}));
inline!(Time, pattern(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{9}Z$"));
inline!(ConnectionId, pattern("^[0-9a-f]{0,8}-[0-9a-f]+-[0-9]+$"));
inline!(ProcessId, pattern("^[0-9a-f]{0,8}-[0-9]+-[0-9]+$"));
inline!(AlertId, pattern("^[0-9a-f]{0,8}-[0-9a-f]+-a[0-9]+$"));
inline!(CommunityId, pattern("^1:[A-Za-z0-9+/]{27}=$"));
inline!(Text<'_>, json_schema!({"type": "string"}));
inline!(Instant, pattern("^[0-9]+$"));

impl JsonSchema for ProcessOrId {
    fn schema_name() -> Cow<'static, str> {
        "ProcessOrId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let process = generator.subschema_for::<Process<'static>>();
        json_schema!({"anyOf": [process, ProcessId::json_schema(generator)]})
    }
}
