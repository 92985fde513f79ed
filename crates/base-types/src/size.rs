use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that names no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown size `{0}`; the sizes are nano, micro, small, medium and large")]
pub struct ParseSizeError(String);

/// How big a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// 1 vCPU, 512 MiB.
    Nano,
    /// 1 vCPU, 1 GiB.
    Micro,
    /// 2 vCPUs, 2 GiB.
    Small,
    /// 2 vCPUs, 4 GiB.
    Medium,
    /// 4 vCPUs, 8 GiB.
    Large,
}

impl Size {
    /// Every size, smallest first.
    pub const ALL: [Self; 5] = [Self::Nano, Self::Micro, Self::Small, Self::Medium, Self::Large];

    /// Virtual processors, 1 to 8.
    pub const fn vcpus(self) -> u8 {
        match self {
            Self::Nano | Self::Micro => 1,
            Self::Small | Self::Medium => 2,
            Self::Large => 4,
        }
    }

    /// Guest memory in MiB.
    pub const fn memory_mib(self) -> u32 {
        match self {
            Self::Nano => 512,
            Self::Micro => 1024,
            Self::Small => 2048,
            Self::Medium => 4096,
            Self::Large => 8192,
        }
    }

    /// The name a user types.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nano => "nano",
            Self::Micro => "micro",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Size {
    type Err = ParseSizeError;

    fn from_str(text: &str) -> Result<Self, ParseSizeError> {
        Self::ALL
            .into_iter()
            .find(|size| size.name() == text)
            .ok_or_else(|| ParseSizeError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_size_is_found_by_its_name() {
        for size in Size::ALL {
            assert_eq!(size.name().parse(), Ok(size));
        }
        assert!("Nano".parse::<Size>().is_err());
    }
}
