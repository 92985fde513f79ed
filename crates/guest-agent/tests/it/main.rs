//! The agent as its host sees it: the built binary, serving on a Unix socket. Needs root, as PID 1 is.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod contents;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod names;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod robustness;
