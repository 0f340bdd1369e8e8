//! Which crates guard is made of: their licences and where they come from, by cargo's word, held against `deny.toml`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cargo_metadata::{MetadataCommand, Package};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::workspace::Workspace;

/// What this check takes of `deny.toml`; cargo-deny reads all of it.
#[derive(Debug, Deserialize)]
struct Rules {
    licenses: Licences,
    sources: Sources,
}

#[derive(Debug, Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// Every crate of every lock file.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let file = workspace.deny_rules();
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("Could not read {}.", file.display()))?;
    let rules: Rules =
        toml::from_str(&text).with_context(|| format!("Could not read {}.", file.display()))?;
    let mut refused = Vec::new();
    for manifest in manifests(workspace) {
        let metadata = MetadataCommand::new().manifest_path(&manifest).exec();
        let metadata =
            metadata.with_context(|| format!("Could not ask cargo about {}.", manifest.display()))?;
        refused.extend(metadata.packages.iter().filter_map(|package| fault(package, &rules)));
    }
    refused.sort();
    refused.dedup();
    if refused.is_empty() {
        return Ok(());
    }
    bail!("deny.toml does not allow these crates:\n  {}", refused.join("\n  "))
}

/// Those that have lock files.
pub(crate) fn manifests(workspace: &Workspace) -> [PathBuf; 3] {
    [workspace.root.clone(), workspace.ebpf_crate(), workspace.fuzz_crate()]
        .map(|directory| directory.join("Cargo.toml"))
}

/// Why a crate is not allowed. Those of this repository have no source.
fn fault(package: &Package, rules: &Rules) -> Option<String> {
    let source = package.source.as_ref()?.repr.as_str();
    let name = format!("{} {}", package.name, package.version);
    let from = source.strip_prefix("registry+").unwrap_or(source);
    if !rules.sources.allow_registry.iter().any(|allowed| allowed == from) {
        return Some(format!("{name} comes from {source}"));
    }
    match &package.license {
        None => Some(format!("{name} names no licence")),
        Some(licence) if is_allowed(licence, &rules.licenses.allow) => None,
        Some(licence) => Some(format!("{name} is under {licence}")),
    }
}

fn is_allowed(licence: &str, allowed: &[String]) -> bool {
    // Older crates write MIT/Apache-2.0.
    Expression::parse_mode(licence, ParseMode::LAX).is_ok_and(|expression| {
        expression.evaluate(|request| allowed.iter().any(|allowed| *allowed == request.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_allowed_where_one_of_its_ways_is() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"].map(String::from);
        let cases = [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 / MIT", true),
            ("GPL-2.0-only OR MIT", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("MIT AND BSD-3-Clause", false),
            ("GPL-2.0-only", false),
            ("Apache-2.0 WITH LLVM-exception", false),
            ("", false),
            ("as you like", false),
        ];
        for (licence, expected) in cases {
            assert_eq!(is_allowed(licence, &allowed), expected, "{licence:?}");
        }
    }
}
