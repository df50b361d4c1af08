//! What is normal here, as rules that a person reviews: from what the machine does ([`baseline`]), and from its own unit files
//! ([`units`]).
//!
//! Nothing here judges: the result is the text of a rule file ([`write`]).

pub mod baseline;
pub mod units;
pub mod write;
