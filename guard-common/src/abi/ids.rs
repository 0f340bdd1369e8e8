//! Numbers that stand for names of the policy.

/// A service of the policy; 0 is "no service".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(u8);

impl ServiceId {
    pub const NONE: Self = Self(0);
    /// How many numbers there are, with [`NONE`](Self::NONE).
    pub const COUNT: u32 = 256;

    #[inline(always)]
    pub const fn new(id: u8) -> Self {
        Self(id)
    }

    #[inline(always)]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// A set of limits of the policy; 0 is "no limits".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitsId(u8);

impl LimitsId {
    pub const NONE: Self = Self(0);
    /// How many numbers there are, with [`NONE`](Self::NONE).
    pub const COUNT: u32 = 256;

    #[inline(always)]
    pub const fn new(id: u8) -> Self {
        Self(id)
    }

    #[inline(always)]
    pub const fn get(self) -> u8 {
        self.0
    }
}
