//! What is normal here, as rules that a person reviews: from what the machine does ([`baseline`]), from its own unit files
//! ([`units`]), or from what a command did in a good run ([`run`]).
//!
//! Nothing here judges: the result is the text of a rule file ([`mod@write`]).

pub mod baseline;
pub mod run;
pub mod units;
pub mod write;
