//! Every lookup structure of the packet path, and how it is published.

pub mod maglev;
