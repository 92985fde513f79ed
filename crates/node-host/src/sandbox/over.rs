//! Why a sandbox's machine is over, in the words of its console.

use crate::vmm::MachineOver;

/// Why a machine is over, given the most telling line of its console.
pub(crate) fn explain(over: MachineOver, words: Option<String>) -> String {
    match (over, words) {
        (MachineOver::Guest, Some(line)) if line.contains("Kernel panic") => {
            format!("the guest's kernel panicked: {line}")
        }
        (MachineOver::Guest, Some(line)) if crate::console::is_farewell(&line) => {
            "the guest shut itself down".to_owned()
        }
        // A kernel that means to end says so first.
        (MachineOver::Guest, _) => {
            "the guest reset itself without a word from its kernel (a triple fault, or sysrq)"
                .to_owned()
        }
        // It switched off a machine that has no switch, and answers nobody any more.
        (MachineOver::Vmm(_), Some(line)) if line.contains(crate::console::POWER_DOWN) => {
            "the guest shut itself down".to_owned()
        }
        (MachineOver::Vmm(reason), _) => format!("the machine failed: {reason}"),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_guest_that_said_farewell_is_told_from_one_that_only_stopped() {
        let explain = |line: Option<&str>| explain(MachineOver::Guest, line.map(str::to_owned));
        for farewell in ["reboot: Power down", "sysrq: Resetting", "reboot: Restarting system"] {
            assert_eq!(explain(Some(farewell)), "the guest shut itself down");
        }
        assert!(explain(Some("[1.0] Kernel panic - not syncing: x")).contains("panicked: [1.0]"));
        for silent in [None, Some("login:")] {
            assert!(explain(silent).contains("without a word"), "{silent:?}");
        }
    }
}
