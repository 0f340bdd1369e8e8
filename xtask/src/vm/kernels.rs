//! Which kernels guard is run on, and what must happen there.

/// A kernel to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As the user names it.
    pub(crate) name: &'static str,
    /// What its release begins with.
    pub(crate) series: &'static str,
    /// Debian's suites that may have it. The newest that they have is taken, the earlier suite where two have the same.
    pub(crate) suites: &'static [&'static str],
    pub(crate) expects: Expects,
    /// Whether the instructions that frames take are counted there: they are others on each kernel, so one of them has a budget.
    pub(crate) counts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    /// All tests pass.
    Work,
    /// Guard says in one sentence that this kernel is too old.
    Refusal,
}

pub(crate) const NEWEST: &str = "newest";

/// 5.10 is the last long-term kernel before the oldest that guard takes; of that one, 5.15, Debian has no package.
pub(crate) const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", series: "5.10.", suites: &["bullseye"], expects: Expects::Refusal, counts: false },
    Kernel { name: "6.1", series: "6.1.", suites: &["bookworm"], expects: Expects::Work, counts: true },
    Kernel {
        name: "6.12",
        series: "6.12.",
        suites: &["trixie", "bookworm-backports"],
        expects: Expects::Work,
        counts: false,
    },
    Kernel {
        name: NEWEST,
        series: "",
        suites: &["sid", "trixie-backports"],
        expects: Expects::Work,
        counts: false,
    },
];

/// The kernels of these names, or all.
pub(crate) fn chosen(names: &[String]) -> Vec<Kernel> {
    let is_chosen = |kernel: &Kernel| names.is_empty() || names.iter().any(|name| name == kernel.name);
    KERNELS.into_iter().filter(is_chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_all_are_chosen_and_with_one_only_that() {
        assert_eq!(chosen(&[]), KERNELS);
        let names: Vec<_> =
            chosen(&["6.12".into(), "5.10".into()]).iter().map(|kernel| kernel.name).collect();
        assert_eq!(names, ["5.10", "6.12"]);
    }
}
