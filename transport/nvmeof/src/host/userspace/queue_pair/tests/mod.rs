//! The queue pair against a scripted target, over streams in memory and a clock that only the test moves.

mod conversation;
mod digests;
mod edges;
mod misbehaviour;
mod noise;
mod recovery;
mod time;
