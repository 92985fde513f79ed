//! The door of a node: what callers with keys, with others' keys and without any get, over HTTP.

mod door;
mod tenancy;
mod world;
