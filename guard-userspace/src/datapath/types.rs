//! Where members lie in the structures of the running kernel, by its own description (BTF).
//!
//! The format: Documentation/bpf/btf.rst. aya reads it, and does not show members.

use std::io::{self, ErrorKind};
use std::path::Path;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;

/// Kinds of types that matter here.
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// The types of a kernel.
pub(super) struct Types {
    bytes: Vec<u8>,
    /// Where each type begins, by its number less one.
    starts: Vec<usize>,
    strings: usize,
}

/// The head of a type: `struct btf_type`.
struct Head {
    name: u32,
    kind: u32,
    members: usize,
    /// Whether offsets of members have the width of a bit field in their upper byte.
    has_bit_fields: bool,
}

impl Types {
    /// # Errors
    /// When the kernel has no description of its types, or it is not understood.
    pub(super) fn of_kernel() -> io::Result<Self> {
        Self::parse(std::fs::read(Path::new(VMLINUX))?)
    }

    fn parse(bytes: Vec<u8>) -> io::Result<Self> {
        let types = Self { bytes, starts: Vec::new(), strings: 0 };
        types
            .index()
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the kernel's BTF is not understood"))
    }

    fn index(mut self) -> Option<Self> {
        if u16::try_from(self.word(0)? & 0xffff).ok()? != MAGIC {
            return None;
        }
        let header = self.word(4)? as usize;
        let (first, length) = (header + self.word(8)? as usize, self.word(12)? as usize);
        self.strings = header + self.word(16)? as usize;
        if header < HEADER {
            return None;
        }
        let mut at = first;
        while at < first + length {
            self.starts.push(at);
            at += 12 + self.head(at)?.tail()?;
        }
        Some(self)
    }

    /// The offset in bytes of a member, that of a member of the structure in it, and so on; members of structures without a name count as
    /// those of the one around. None where there is no such thing.
    pub(super) fn offset(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let start = self.starts.iter().copied().find(|start| {
            self.head(*start).is_some_and(|head| head.kind == STRUCT && self.is_named(head.name, structure))
        })?;
        let mut place = (start, 0);
        for member in path {
            place = self.member(place.0, place.1, member)?;
        }
        Some(place.1 / 8)
    }

    /// The type and the offset in bits of a member.
    fn member(&self, start: usize, base: u32, name: &str) -> Option<(usize, u32)> {
        let head = self.head(start)?;
        if head.kind != STRUCT && head.kind != UNION {
            return None;
        }
        for at in (0..head.members).map(|number| start + 12 + 12 * number) {
            let (its_name, its_type, offset) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let offset = base + if head.has_bit_fields { offset & 0xff_ffff } else { offset };
            let its_type = *self.starts.get((its_type as usize).checked_sub(1)?)?;
            if its_name != 0 && self.is_named(its_name, name) {
                return Some((its_type, offset));
            }
            if its_name == 0
                && let Some(found) = self.member(its_type, offset, name)
            {
                return Some(found);
            }
        }
        None
    }

    fn head(&self, at: usize) -> Option<Head> {
        let info = self.word(at + 4)?;
        Some(Head {
            name: self.word(at)?,
            kind: (info >> 24) & 0x1f,
            members: (info & 0xffff) as usize,
            has_bit_fields: info >> 31 != 0,
        })
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let at = self.strings + offset as usize;
        let end = at + name.len();
        self.bytes.get(at..end) == Some(name.as_bytes()) && self.bytes.get(end) == Some(&0)
    }

    /// A program for this machine reads the description of its kernel: both have the same byte order.
    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }
}

impl Head {
    /// Bytes behind the head; none for a kind of a later kernel.
    fn tail(&self) -> Option<usize> {
        let (once, each) = match self.kind {
            // Nothing; pointer, forward, typedef, volatile, const, restrict, function, float, tag of a type.
            0 | 2 | 7..=12 | 16 | 18 => (0, 0),
            // Integer, variable, tag of a declaration.
            1 | 14 | 17 => (4, 0),
            ARRAY => (12, 0),
            STRUCT | UNION => (0, 12),
            // Enumeration, parameters of a function.
            6 | 13 => (0, 8),
            // Section, wide enumeration.
            15 | 19 => (0, 12),
            _ => return None,
        };
        Some(once + each * self.members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program relies on is so in this kernel, too.
    #[test]
    fn the_beginning_of_a_socket_is_known() {
        let types = Types::of_kernel().unwrap();
        let common = ["__sk_common"];
        let of_socket = |member| types.offset("sock", &[common[0], member]);
        let found =
            ["skc_daddr", "skc_dport", "skc_num", "skc_family", "skc_net", "skc_v6_daddr"].map(of_socket);
        assert_eq!(found, [0, 12, 14, 16, 48, 56].map(Some));
        assert!(types.offset("net", &["ns", "inum"]).is_some());
        assert_eq!(types.offset("net", &["no such thing"]), None);
        assert_eq!(types.offset("no such thing", &[]), None);
    }

    #[test]
    fn nonsense_is_no_description() {
        for bytes in [vec![], vec![0; 100], [&[0x9f, 0xeb, 1, 0][..], &[0xff; 60]].concat()] {
            assert!(Types::parse(bytes).is_err());
        }
    }
}
