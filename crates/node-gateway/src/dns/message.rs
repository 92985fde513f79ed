//! Messages of DNS, from a guest or from a resolver: hostile both. Only as much is understood as is
//! needed to judge a question and its answer (RFC 1035).

use std::net::Ipv4Addr;

use api_node::DomainName;

/// Bytes of the header.
const HEADER_BYTES: usize = 12;
/// LIMIT: a question over TCP or UDP: header, the longest name, type, class, and what EDNS adds.
pub(crate) const QUERY_BYTES_MAX: usize = 1024;
/// Bytes every resolver and every program can take over UDP.
pub(crate) const UDP_BYTES_MAX: usize = 512;
/// LIMIT: bytes of an answer that is handed on; the longest key or text record is some KiB.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// LIMIT: records of an answer that are looked at.
const RECORDS_MAX: u16 = 256;
/// LIMIT: addresses an answer is given with, so that it fits a datagram; nobody tries more.
pub(crate) const ADDRESSES_MAX: usize = 16;
/// LIMIT: names that stand for another, one after the other.
const ALIASES_MAX: usize = 16;
const CLASS_IN: u16 = 1;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const RCODE: u16 = 0x000f;

/// Types of records that are told apart.
pub(crate) mod kind {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const MX: u16 = 15;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const NAPTR: u16 = 35;
    pub(crate) const DS: u16 = 43;
    pub(crate) const DNSKEY: u16 = 48;
    pub(crate) const TLSA: u16 = 52;
    pub(crate) const SVCB: u16 = 64;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const CAA: u16 = 257;
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rcode {
    /// With an answer, which may be empty.
    NoError = 0,
    /// It was not understood.
    FormErr = 1,
    /// Nobody answered it.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// It is of a kind that is not known here.
    NotImp = 4,
    /// It is of a kind that is not answered here.
    Refused = 5,
}

/// A question of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Its number.
    pub id: u16,
    /// Whether others are to be asked.
    pub recursion: bool,
    /// The name, and the type of record wanted of it.
    pub name: DomainName,
    /// The type of record.
    pub kind: u16,
    /// The question as it was written.
    pub question: Vec<u8>,
}

impl Query {
    /// The question a message asks.
    ///
    /// # Errors
    ///
    /// What is to be answered instead; `None` is nothing, for what has no number or is no question.
    pub fn parse(message: &[u8]) -> Result<Self, Option<(u16, Rcode)>> {
        let id = be16(message, 0).ok_or(None)?;
        let flags = be16(message, 2).ok_or(None)?;
        if flags & RESPONSE != 0 {
            return Err(None);
        }
        let answer = |rcode| Err(Some((id, rcode)));
        if message.len() > QUERY_BYTES_MAX {
            return answer(Rcode::FormErr);
        }
        if flags & OPCODE != 0 {
            return answer(Rcode::NotImp);
        }
        if (be16(message, 4), be16(message, 6), be16(message, 8)) != (Some(1), Some(0), Some(0)) {
            return answer(Rcode::FormErr);
        }
        let Some((name, end)) = name(message, HEADER_BYTES, false) else {
            return answer(Rcode::FormErr);
        };
        let (Some(kind), Some(class)) = (be16(message, end), be16(message, end.saturating_add(2)))
        else {
            return answer(Rcode::FormErr);
        };
        let question = message.get(HEADER_BYTES..end.saturating_add(4)).unwrap_or_default();
        if class != CLASS_IN {
            return answer(Rcode::Refused);
        }
        // What cannot be the name of a host, a service or an address has no answer.
        let Ok(name) = name.parse() else { return answer(Rcode::NxDomain) };
        let recursion = flags & RECURSION_DESIRED != 0;
        Ok(Self { id, recursion, name, kind, question: question.to_vec() })
    }

    /// The same question to a resolver, under another number.
    pub(crate) fn forward(&self, id: u16) -> Vec<u8> {
        let mut message = header(id, RECURSION_DESIRED, 1, 0);
        message.extend_from_slice(&self.question);
        message
    }

    /// Whether a message answers that.
    pub(crate) fn is_answered_by(&self, id: u16, message: &[u8]) -> bool {
        let question = HEADER_BYTES..HEADER_BYTES.saturating_add(self.question.len());
        be16(message, 0) == Some(id)
            && be16(message, 2).is_some_and(|flags| flags & RESPONSE != 0)
            && be16(message, 4) == Some(1)
            && message.get(question).is_some_and(|it| it.eq_ignore_ascii_case(&self.question))
    }

    /// An answer without records.
    pub(crate) fn answer(&self, rcode: Rcode) -> Vec<u8> {
        let mut message = header(self.id, self.flags(rcode), 1, 0);
        message.extend_from_slice(&self.question);
        message
    }

    /// An answer with these addresses.
    pub(crate) fn addresses(&self, addresses: &[(Ipv4Addr, u32)]) -> Vec<u8> {
        let addresses = addresses.get(..ADDRESSES_MAX).unwrap_or(addresses);
        // At most `ADDRESSES_MAX`.
        let count = addresses.len() as u16;
        let mut message = header(self.id, self.flags(Rcode::NoError), 1, count);
        message.extend_from_slice(&self.question);
        for (address, ttl_s) in addresses {
            // The name is the question's, right after the header.
            message.extend_from_slice(&[0xc0, HEADER_BYTES as u8]);
            message.extend_from_slice(&kind::A.to_be_bytes());
            message.extend_from_slice(&CLASS_IN.to_be_bytes());
            message.extend_from_slice(&ttl_s.to_be_bytes());
            message.extend_from_slice(&4_u16.to_be_bytes());
            message.extend_from_slice(&address.octets());
        }
        message
    }

    /// A resolver's answer, without what it adds to the records that were asked for. `None` when it
    /// is not one of this type.
    pub(crate) fn hand_on(&self, message: &[u8]) -> Option<Vec<u8>> {
        if message.len() > ANSWER_BYTES_MAX {
            return None;
        }
        let rcode = be16(message, 2)? & RCODE;
        let (records, end) = records(message)?;
        let wanted = |record: &Record<'_>| record.kind == self.kind || record.kind == kind::CNAME;
        if !records.iter().all(wanted) {
            return None;
        }
        let flags = self.flags(Rcode::NoError) | rcode;
        let mut answer = header(self.id, flags, 1, records.len().try_into().ok()?);
        answer.extend_from_slice(message.get(HEADER_BYTES..end)?);
        Some(answer)
    }

    fn flags(&self, rcode: Rcode) -> u16 {
        let desired = if self.recursion { RECURSION_DESIRED } else { 0 };
        RESPONSE | desired | RECURSION_AVAILABLE | rcode as u16
    }
}

/// An answer for which no question was understood.
pub(crate) fn failure(id: u16, rcode: Rcode) -> Vec<u8> {
    header(id, RESPONSE | rcode as u16, 0, 0)
}

/// An answer as it goes over UDP: one that is too long is asked for again over TCP.
pub(crate) fn for_udp(answer: Vec<u8>) -> Vec<u8> {
    if answer.len() <= UDP_BYTES_MAX {
        return answer;
    }
    let (id, flags) = (be16(&answer, 0).unwrap_or(0), be16(&answer, 2).unwrap_or(0));
    let mut cut = header(id, flags | TRUNCATED, 1, 0);
    let question = name(&answer, HEADER_BYTES, false).map_or(HEADER_BYTES, |(_, end)| end + 4);
    cut.extend_from_slice(answer.get(HEADER_BYTES..question).unwrap_or_default());
    cut
}

/// Whether it has to be asked for again over TCP.
pub(crate) fn is_truncated(message: &[u8]) -> bool {
    be16(message, 2).is_some_and(|flags| flags & TRUNCATED != 0)
}

/// Whether a resolver could not answer, and another may.
pub(crate) fn is_failure(message: &[u8]) -> bool {
    let rcode = be16(message, 2).map(|flags| flags & RCODE);
    !matches!(rcode, Some(0 | 3))
}

/// Whether there is no such name.
pub(crate) fn is_nx_domain(message: &[u8]) -> bool {
    be16(message, 2).is_some_and(|flags| flags & RCODE == Rcode::NxDomain as u16)
}

/// The addresses a resolver's answer gives for a name, by whatever other names, and for how many
/// seconds. `None` when the answer cannot be understood.
pub fn addresses_of(name_wanted: &DomainName, message: &[u8]) -> Option<Vec<(Ipv4Addr, u32)>> {
    let (records, _) = records(message)?;
    let mut names = vec![name_wanted.as_str().to_owned()];
    while names.len() <= ALIASES_MAX {
        let last = names.last()?;
        let alias = records.iter().find(|it| it.kind == kind::CNAME && it.name == *last);
        let Some(alias) = alias.and_then(|it| name(message, it.at, true)) else { break };
        if names.contains(&alias.0) {
            break;
        }
        names.push(alias.0);
    }
    let mut addresses = Vec::new();
    for record in records.iter().filter(|it| it.kind == kind::A && names.contains(&it.name)) {
        if let Ok(octets) = <[u8; 4]>::try_from(record.data)
            && addresses.len() < ADDRESSES_MAX
        {
            addresses.push((Ipv4Addr::from(octets), record.ttl_s));
        }
    }
    Some(addresses)
}

struct Record<'a> {
    name: String,
    kind: u16,
    ttl_s: u32,
    /// Where its data begins in the message, which names in it may point back to.
    at: usize,
    data: &'a [u8],
}

/// The records that answer, and where they end.
fn records(message: &[u8]) -> Option<(Vec<Record<'_>>, usize)> {
    let (questions, count) = (be16(message, 4)?, be16(message, 6)?);
    if questions != 1 || count > RECORDS_MAX {
        return None;
    }
    let (_, end) = name(message, HEADER_BYTES, false)?;
    let mut at = end.checked_add(4)?;
    let mut records = Vec::new();
    for _ in 0..count {
        let (name, end) = name(message, at, true)?;
        let kind = be16(message, end)?;
        let ttl = message.get(end.checked_add(4)?..end.checked_add(8)?)?;
        let ttl_s = u32::from_be_bytes(ttl.try_into().ok()?);
        let begin = end.checked_add(10)?;
        at = begin.checked_add(be16(message, end.checked_add(8)?)?.into())?;
        records.push(Record { name, kind, ttl_s, at: begin, data: message.get(begin..at)? });
    }
    Some((records, at))
}

/// A name in small letters, and where what comes after it begins. Pointers go back only, so there are
/// no more of them than bytes.
fn name(message: &[u8], at: usize, pointers: bool) -> Option<(String, usize)> {
    let mut text = String::new();
    let (mut at, mut limit, mut end) = (at, message.len(), None);
    loop {
        let length = usize::from(*message.get(at).filter(|_| at < limit)?);
        match length {
            0 => return Some((text, end.unwrap_or(at.checked_add(1)?))),
            1..=63 => {
                let begin = at.checked_add(1)?;
                at = begin.checked_add(length)?;
                let label = message.get(begin..at).filter(|_| at <= limit)?;
                if !text.is_empty() {
                    text.push('.');
                }
                // What is no letter of a name is shown as one that is in no name.
                let letter = |b: &u8| if b.is_ascii_graphic() && *b != b'.' { *b } else { b'?' };
                text.extend(label.iter().map(|b| char::from(letter(b).to_ascii_lowercase())));
                if text.len() > 253 {
                    return None;
                }
            }
            192.. if pointers => {
                let target = usize::from(be16(message, at)? & 0x3fff);
                end = end.or(at.checked_add(2));
                if target >= at.min(limit) {
                    return None;
                }
                (limit, at) = (at.min(limit), target);
            }
            _ => return None,
        }
    }
}

fn header(id: u16, flags: u16, questions: u16, answers: u16) -> Vec<u8> {
    let mut header = Vec::with_capacity(UDP_BYTES_MAX);
    for field in [id, flags, questions, answers, 0, 0] {
        header.extend_from_slice(&field.to_be_bytes());
    }
    header
}

fn be16(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod test;
