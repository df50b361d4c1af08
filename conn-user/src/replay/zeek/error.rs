//! Why a line of a Zeek log cannot be read as a connection.

use thiserror::Error;

/// Characters of a value that an error shows.
const SHOWN: usize = 64;

/// Why a line cannot be read as a connection.
#[derive(Debug, Error)]
pub enum ZeekError {
    /// A field that every connection has is missing or unset.
    #[error(
        "no `{0}`, which every line of a conn.log has; other logs of Zeek report nothing that can be judged"
    )]
    Missing(&'static str),
    /// A value is invalid.
    #[error("`{field}` is not {what}: {value:?}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it should be.
        what: &'static str,
        /// The beginning of the value.
        value: String,
    },
    /// It is another log than those of connections.
    #[error("a Zeek log of {0:?}; what can be judged is conn.log and open_conn.log")]
    Path(String),
    /// A line comes before the columns are named.
    #[error("a line before `#fields`, which names its columns; take the head of the log with it")]
    NoFields,
    /// The line does not have one value for each column.
    #[error("{is} values in {expected} columns; the line was changed, or the wrong `#fields` is above it")]
    Columns {
        /// Number of columns.
        expected: usize,
        /// Number of values.
        is: usize,
    },
    /// A line of the header has no value.
    #[error("`{0}` in the head of the log has no value")]
    Header(&'static str),
    /// It is not JSON, or not of this shape.
    #[error("not a line of a conn.log: {0}")]
    Json(serde_json::Error),
}

impl ZeekError {
    /// The error of a field whose value is not what it should be.
    pub(super) fn value(field: &'static str, what: &'static str, value: &str) -> Self {
        Self::Value { field, what, value: shortened(value) }
    }
}

/// Returns the beginning of a value, for an error.
pub(super) fn shortened(value: &str) -> String {
    value.chars().take(SHOWN).collect()
}
