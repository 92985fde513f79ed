use std::collections::HashMap;
use std::net::Ipv4Addr;

use api_node::DomainName;
use tokio::time::Instant;

/// LIMIT: addresses that names of one sandbox gave. A crawler sees some hundred in the time answers
/// are good for; beyond, the one that expires first is forgotten.
const ADDRESSES_MAX: usize = 2048;
/// LIMIT: names of one address. Servers of many sites have more, but a sandbox asks for few of them.
const NAMES_MAX: usize = 8;

/// Which names gave which addresses, as one sandbox was told.
#[derive(Debug, Default)]
pub(crate) struct Names {
    addresses: HashMap<Ipv4Addr, Vec<(DomainName, Instant)>>,
}

impl Names {
    /// The name gave this address, and that is good until then.
    pub(crate) fn bind(
        &mut self,
        name: &DomainName,
        address: Ipv4Addr,
        until: Instant,
        now: Instant,
    ) {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.make_room(now);
        }
        let names = self.addresses.entry(address).or_default();
        if let Some((_, known)) = names.iter_mut().find(|(known, _)| known == name) {
            *known = (*known).max(until);
            return;
        }
        if names.len() >= NAMES_MAX {
            let first = names.iter().enumerate().min_by_key(|(_, (_, until))| *until);
            if let Some(index) = first.map(|(index, _)| index) {
                names.swap_remove(index);
            }
        }
        names.push((name.clone(), until));
    }

    /// The names that gave an address and are still good.
    pub(crate) fn of(&self, address: Ipv4Addr, now: Instant) -> Vec<DomainName> {
        let names = self.addresses.get(&address).into_iter().flatten();
        names.filter(|(_, until)| *until > now).map(|(name, _)| name.clone()).collect()
    }

    fn make_room(&mut self, now: Instant) {
        let last = |names: &[(DomainName, Instant)]| names.iter().map(|(_, until)| *until).max();
        self.addresses.retain(|_, names| last(names) > Some(now));
        if self.addresses.len() >= ADDRESSES_MAX {
            let first = self.addresses.iter().min_by_key(|(_, names)| last(names));
            if let Some(address) = first.map(|(address, _)| *address) {
                self.addresses.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod test {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_name_is_good_for_its_time() {
        let (mut names, now) = (Names::default(), Instant::now());
        let (one, other) = ("a.example".parse().unwrap(), "b.example".parse().unwrap());
        let address = Ipv4Addr::new(192, 0, 2, 1);
        names.bind(&one, address, now + Duration::from_secs(10), now);
        names.bind(&other, address, now + Duration::from_secs(20), now);
        assert_eq!(names.of(address, now), [one.clone(), other.clone()]);
        assert_eq!(names.of(address, now + Duration::from_secs(15)), [other]);
        assert_eq!(names.of(address, now + Duration::from_secs(25)), []);
        names.bind(&one, address, now + Duration::from_secs(30), now);
        assert_eq!(names.of(address, now + Duration::from_secs(25)), [one]);
        assert_eq!(names.of(Ipv4Addr::new(192, 0, 2, 2), now), []);
    }

    #[test]
    fn only_so_much_is_remembered() {
        let (mut names, now) = (Names::default(), Instant::now());
        let until = |index: u32| now + Duration::from_secs(10 + u64::from(index));
        let name: DomainName = "a.example".parse().unwrap();
        for index in 0..3000 {
            names.bind(&name, Ipv4Addr::from_bits(index), until(index), now);
        }
        assert_eq!(names.addresses.len(), ADDRESSES_MAX);
        assert_eq!(names.of(Ipv4Addr::from_bits(2999), now), [name]);
        assert_eq!(names.of(Ipv4Addr::from_bits(0), now), []);
        for index in 0..20 {
            let name = format!("n{index}.example").parse().unwrap();
            names.bind(&name, Ipv4Addr::from_bits(2999), until(index), now);
        }
        assert_eq!(names.addresses[&Ipv4Addr::from_bits(2999)].len(), NAMES_MAX);
    }
}
