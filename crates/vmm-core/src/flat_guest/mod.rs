//! Whole machines with a guest of a few instructions, on whatever `/dev/kvm` there is.
//!
//! The guest is a tiny PVH kernel, so that it takes the same way in as Linux: shell, boot, hold,
//! snapshot, restore. A `/dev/kvm` that only emulates kernel code runs it well.

mod kept;
mod kernel;
mod network;
mod test;
