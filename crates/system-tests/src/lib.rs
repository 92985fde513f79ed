//! Nothing but tests: the whole product, from the command line down to Linux guests, in the portable
//! host. They are in `tests/system`; `scripts/test` builds what they need and runs them.
