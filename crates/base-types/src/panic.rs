use std::panic;
use std::process;

/// From now on a panic of any thread, once it has been reported, ends the process at once, unless
/// `contained` says that whoever panicked has somebody who expects it.
///
/// Release builds unwind, for the sake of those; a process that goes on without one of its threads is
/// never what anybody wants.
pub fn abort_on_panic(contained: fn() -> bool) {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        if !contained() {
            process::abort();
        }
    }));
}
