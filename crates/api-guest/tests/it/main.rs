//! The protocol as both sides rely on it.

mod surface;
mod survival;
