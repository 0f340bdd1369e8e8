//! The values of the policy that are one word of a few.

use serde::{Serialize, Serializer};

/// A value that is one of a few words.
pub(super) trait Keyword: Copy + 'static {
    const ALL: &'static [Self];

    fn word(self) -> &'static str;

    fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.word() == word)
    }
}

macro_rules! keywords {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// As the policy file writes it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl Keyword for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            fn word(self) -> &'static str {
                self.name()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    )+};
}

keywords! {
    /// Where in the driver the program runs.
    AttachMode {
        /// Native, or generic where the driver cannot.
        Auto = "auto",
        Native = "native",
        Generic = "generic",
    }
    /// What the kernel does when the agent is gone.
    OnExit {
        Keep = "keep",
        Detach = "detach",
    }
    Protocol {
        Tcp = "tcp",
        Udp = "udp",
    }
    ServiceMode {
        Enforce = "enforce",
        /// Counts what it would drop, drops nothing.
        Monitor = "monitor",
    }
    /// What of a blocked source is dropped.
    BlockScope {
        /// What it sends to guarded ports.
        Services = "services",
        /// All that it sends.
        Host = "host",
    }
    LogLevel {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
    LogFormat {
        Text = "text",
        Json = "json",
    }
}

macro_rules! defaults {
    ($($name:ident::$variant:ident)+) => {$(
        impl Default for $name {
            fn default() -> Self {
                Self::$variant
            }
        }
    )+};
}

defaults! {
    AttachMode::Auto
    OnExit::Keep
    ServiceMode::Enforce
    BlockScope::Services
    LogLevel::Info
    LogFormat::Text
}
