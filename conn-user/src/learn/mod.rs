//! What is normal here, as rules that a person reviews: from the machine's own unit files ([`units`]).
//!
//! Nothing here judges: the result is the text of a rule file ([`write`]).

pub mod units;
pub mod write;
