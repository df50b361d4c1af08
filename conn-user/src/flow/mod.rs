//! What: the connection and listener tables and their life cycles.

pub mod model;
