//! The agent as its host sees it: the built binary, serving on a Unix socket. Needs root, as PID 1 is.

#[cfg(test)]
mod archives;
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
mod ports;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod robustness;
#[cfg(test)]
mod watching;
