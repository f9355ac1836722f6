//! `balance`: exact duplicates are dropped and queries capped, over all shards.

use serde::{Deserialize, Serialize};

use super::{Input, Output, Settings, Split, StageKind, TaskWork, Wants, blank_stage};
use crate::check::Check;
use crate::commit::Part;
use crate::expand::{Error, Expansion, Given, Step};
use crate::id::{RecipeHash, StageName};
use crate::recipe::{self, Scope};
use crate::task::Role;

/// How queries are balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BalanceMode {
    /// A hard cap of pairs per query, chosen by hash (WIT).
    Wit,
    /// Kept with probability `1 - prod(1 - min(1, cap / count))` (MetaCLIP).
    Metaclip,
}

/// `kind = "balance"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// The stage whose dataset is balanced.
    pub from: StageName,
    /// How.
    #[serde(default = "balance_mode")]
    pub mode: BalanceMode,
    /// Pairs per query (t in MetaCLIP).
    #[serde(default = "cap")]
    pub cap: u64,
}

/// Global: balances. Commits one `Curation` overlay per shard, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BalanceWork {
    /// Settings.
    pub config: Balance,
    /// The shards.
    pub parts: Vec<Part>,
}

impl StageKind for Balance {
    const NAME: &'static str = "balance";
    const VERSION: u32 = 1;
}

impl Settings for Balance {
    fn inputs(&self) -> Vec<Input> {
        vec![Input::new("from", &self.from, Wants::Dataset)]
    }

    fn output(&self) -> Output<'_> {
        Output::DatasetOf(&self.from)
    }

    fn check(&self, check: &mut Check) {
        check.any("mode", "both modes are meant");
        check.integer("cap", self.cap, 1..=1_000_000_000_000);
    }

    fn split(&self) -> Split {
        Split::Global
    }

    fn role(&self) -> Role {
        Role::Curate
    }

    fn expand(&self, step: &Step<'_>) -> Result<Expansion, Error> {
        let (version, parts) = step.dataset(&self.from)?;
        let work = BalanceWork {
            config: self.clone(),
            parts: parts.to_vec(),
        };
        step.single(work, |commit| {
            let parts = step.with_overlays(commit, parts)?;
            Ok(Given::next_version(version, parts))
        })
    }
}

impl TaskWork for BalanceWork {
    fn recipe(&self, scope: &Scope<'_>) -> RecipeHash {
        let config = Balance {
            from: blank_stage(),
            ..self.config.clone()
        };
        let inputs = [recipe::metadata_of_parts(&self.parts)];
        recipe::hash::<Balance>("", Some(scope.seed), &config, &[], &inputs)
    }

    fn overlaid(&self) -> &[Part] {
        &self.parts
    }
}

fn balance_mode() -> BalanceMode {
    BalanceMode::Wit
}

fn cap() -> u64 {
    20_000
}
