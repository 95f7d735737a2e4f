//! The crate from outside: frames in, facts and frames out.

mod checksum;
mod corpus;
mod nat;
mod parse;
mod reply;
mod strategy;
