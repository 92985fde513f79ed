//! Which kernel modules to load, and in which order.

use std::collections::BTreeSet;

/// Why no load order could be found.
#[derive(Debug, thiserror::Error)]
pub enum OrderError<E: std::error::Error + 'static> {
    /// Modules that need each other.
    #[error("kernel module `{name}` depends on itself")]
    Cycle {
        /// One module on the circle.
        name: String,
    },
    /// More modules than any sensible initrd.
    #[error("the wanted kernel modules pull in more than {MODULES_MAX} others")]
    TooMany,
    /// The module's own description could not be read.
    #[error("cannot read what kernel module `{name}` depends on")]
    Depends {
        /// The module.
        name: String,
        /// Why not.
        source: E,
    },
}

/// LIMIT: the initrds hold about ten modules; this only stops a damaged dependency list.
const MODULES_MAX: usize = 64;

/// A module's name as the kernel compares it: `-` and `_` are the same.
pub(crate) fn normalized(name: &str) -> String {
    name.replace('-', "_")
}

/// The order in which to load `wanted` and everything they need, dependencies first, each once.
/// `depends` names the direct dependencies of a module. Modules for which `built_in` holds are left out.
///
/// # Errors
/// When modules depend on each other in a circle, there are too many, or `depends` fails.
pub(crate) fn load_order<E: std::error::Error + 'static>(
    wanted: &[&str],
    built_in: impl Fn(&str) -> bool,
    mut depends: impl FnMut(&str) -> Result<Vec<String>, E>,
) -> Result<Vec<String>, OrderError<E>> {
    let mut order: Vec<String> = Vec::new();
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut open: BTreeSet<String> = BTreeSet::new();
    // Depth first with a stack of our own: a dependency list is input, recursion would trust it.
    for &name in wanted {
        let mut stack = vec![(normalized(name), false)];
        while let Some((name, expanded)) = stack.pop() {
            if expanded {
                open.remove(&name);
                done.insert(name.clone());
                order.push(name);
                continue;
            }
            if done.contains(&name) || built_in(&name) {
                continue;
            }
            if !open.insert(name.clone()) {
                return Err(OrderError::Cycle { name });
            }
            if open.len() + done.len() > MODULES_MAX {
                return Err(OrderError::TooMany);
            }
            let needed = match depends(&name) {
                Ok(needed) => needed,
                Err(source) => return Err(OrderError::Depends { name, source }),
            };
            stack.push((name, true));
            for need in needed.iter().rev() {
                stack.push((normalized(need), false));
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn order(
        wanted: &[&str],
        edges: &[(&str, &[&str])],
    ) -> Result<Vec<String>, OrderError<Infallible>> {
        load_order(
            wanted,
            |name| name == "virtio_pci",
            |name| {
                let edge = edges.iter().find(|(from, _)| *from == name);
                Ok(edge
                    .map(|(_, to)| to.iter().map(|&to| to.to_owned()).collect())
                    .unwrap_or_default())
            },
        )
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let edges: &[(&str, &[&str])] = &[
            ("kvm_amd", &["kvm"]),
            ("kvm", &["irqbypass"]),
            ("virtio_net", &["net-failover", "kvm"]),
        ];
        assert_eq!(
            order(&["virtio_pci", "kvm-amd", "virtio_net", "kvm"], edges).unwrap(),
            ["irqbypass", "kvm", "kvm_amd", "net_failover", "virtio_net"],
        );
    }

    #[test]
    fn a_circle_is_an_error_and_ends() {
        let edges: &[(&str, &[&str])] = &[("a", &["b"]), ("b", &["a"])];
        assert!(matches!(order(&["a"], edges), Err(OrderError::Cycle { .. })));
        assert!(matches!(order(&["c"], &[("c", &["c"])]), Err(OrderError::Cycle { .. })));
    }

    #[test]
    fn an_endless_list_of_dependencies_is_an_error() {
        let mut count = 0;
        let result = load_order::<Infallible>(
            &["m"],
            |_| false,
            |_| {
                count += 1;
                Ok(vec![format!("m{count}")])
            },
        );
        assert!(matches!(result, Err(OrderError::TooMany)));
    }

    #[test]
    fn a_diamond_is_not_a_circle() {
        let edges: &[(&str, &[&str])] =
            &[("top", &["left", "right"]), ("left", &["base"]), ("right", &["base"])];
        assert_eq!(order(&["top"], edges).unwrap(), ["base", "left", "right", "top"]);
    }
}
