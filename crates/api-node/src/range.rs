use std::fmt;

/// One range of bytes, as a `Range` header asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// From one byte to another, both included, or to the end.
    From {
        /// First byte, counted from 0.
        first: u64,
        /// Last byte; not before the first. To the end when `None`.
        last: Option<u64>,
    },
    /// So many bytes at the end.
    Last(u64),
}

impl ByteRange {
    /// What a `Range` header asks for. `None` when it is to be ignored: it is not of bytes, not well
    /// formed, or asks for several ranges, which a server may answer with the whole.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, set) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut ranges = set.split(',').map(str::trim).filter(|range| !range.is_empty());
        let (first, last) = ranges.next()?.split_once('-')?;
        if ranges.next().is_some() {
            return None;
        }
        match (first.trim(), last.trim()) {
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From { first: number(first)?, last: None }),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last: Some(last) })
            }
        }
    }

    /// What that is of a file of `size` bytes. What has no size is only sent whole: it is empty, or
    /// made up as it is read.
    pub fn of(range: Option<Self>, size: u64) -> Extent {
        let (first, last) = match range {
            Some(Self::From { first, last }) => (first, last.unwrap_or(u64::MAX)),
            Some(Self::Last(0)) if size > 0 => return Extent::Beyond { size },
            Some(Self::Last(count)) => (size.saturating_sub(count), u64::MAX),
            None => return Extent::Whole,
        };
        match size.checked_sub(1) {
            None => Extent::Whole,
            Some(end) if first > end => Extent::Beyond { size },
            Some(end) => Extent::Part { first, last: last.min(end), size },
        }
    }
}

impl fmt::Display for ByteRange {
    /// As it is written in the header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From { first, last: Some(last) } => write!(f, "bytes={first}-{last}"),
            Self::From { first, last: None } => write!(f, "bytes={first}-"),
            Self::Last(count) => write!(f, "bytes=-{count}"),
        }
    }
}

/// How much of a file is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// A part.
    Part {
        /// First byte of it.
        first: u64,
        /// Last byte of it.
        last: u64,
        /// Bytes in the file.
        size: u64,
    },
    /// Nothing, for the range begins where the file has ended.
    Beyond {
        /// Bytes in the file.
        size: u64,
    },
}

/// A number of any length; what no file reaches is all the same.
fn number(digits: &str) -> Option<u64> {
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_range_is_understood_or_ignored() {
        let from = |first, last| Some(ByteRange::From { first, last });
        for (header, range) in [
            ("bytes=0-9", from(0, Some(9))),
            ("Bytes = 5 - 5 ", from(5, Some(5))),
            ("bytes=7-", from(7, None)),
            ("bytes=-3", Some(ByteRange::Last(3))),
            ("bytes=, 1-2 ,", from(1, Some(2))),
            ("bytes=1-99999999999999999999999", from(1, Some(u64::MAX))),
            ("bytes=9-5", None),
            ("bytes=0-1,3-4", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes 0-1", None),
            ("lines=0-1", None),
            ("", None),
        ] {
            assert_eq!(ByteRange::parse(header), range, "{header}");
        }
    }

    #[test]
    fn a_range_is_cut_to_the_file() {
        let of = |header, size| ByteRange::of(ByteRange::parse(header), size);
        let part = |first, last| Extent::Part { first, last, size: 10 };
        assert_eq!(of("bytes=2-4", 10), part(2, 4));
        assert_eq!(of("bytes=2-40", 10), part(2, 9));
        assert_eq!(of("bytes=9-", 10), part(9, 9));
        assert_eq!(of("bytes=-4", 10), part(6, 9));
        assert_eq!(of("bytes=-40", 10), part(0, 9));
        assert_eq!(of("bytes=10-", 10), Extent::Beyond { size: 10 });
        assert_eq!(of("bytes=-0", 10), Extent::Beyond { size: 10 });
        assert_eq!(of("bytes=0-", 0), Extent::Whole);
        assert_eq!(of("nothing", 10), Extent::Whole);
    }

    #[test]
    fn a_range_is_written_as_it_is_read() {
        for header in ["bytes=0-9", "bytes=7-", "bytes=-3"] {
            assert_eq!(ByteRange::parse(header).unwrap().to_string(), header);
        }
    }
}
