//! `cargo xtask screens`: the pictures in the documentation.

use anyhow::Result;

use super::build;
use crate::consent::Consent;
use crate::workspace::{Profile, Workspace};
use crate::{packages, privilege, process};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask screens    writes docs/pictures/top.svg

Runs guard under real traffic in network namespaces, as the demo does, and takes the screen of a real terminal. About two minutes.")]
pub(crate) struct Screens {
    #[command(flatten)]
    consent: Consent,
}

impl Screens {
    pub(crate) fn execute(self) -> Result<()> {
        let workspace = Workspace::find()?;
        packages::ensure_tools(self.consent)?;
        build::all(&workspace, Profile::Debug, self.consent)?;
        let mut screens = privilege::as_root(workspace.binary(Profile::Debug, "guard-screens"))?;
        process::run(screens.arg(workspace.root.join("docs/pictures")))
    }
}
