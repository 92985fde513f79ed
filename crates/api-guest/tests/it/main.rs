//! The protocol as both sides rely on it.

#[cfg(test)]
mod surface;
#[cfg(test)]
mod survival;
