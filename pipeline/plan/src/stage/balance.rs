//! `balance`: exact duplicates are dropped and queries capped, over all shards.

use serde::{Deserialize, Serialize};

use super::{Input, Output, Overlaid, Settings, Split, StageKind, TaskWork, Wants, blank_stage};
use crate::check::Check;
use crate::commit::{FileKind, Shards};
use crate::expand::{Error, Next, Outcome, Request};
use crate::id::StageName;
use crate::recipe;
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
    /// The shards.
    pub shards: Shards,
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

    fn next(&self, request: &Request<'_>) -> Result<Next, Error> {
        let shards = request.dataset(&self.from)?.clone();
        let config = Self {
            from: blank_stage(),
            ..self.clone()
        };
        let seed = Some(request.seed);
        let recipe = recipe::hash::<Self>("", seed, &config, &[], &[shards.metadata]);
        let work = BalanceWork {
            shards: shards.clone(),
        };
        let kind = FileKind::Curation;
        request.single(work, recipe, |_| {
            Ok(Outcome::OverlaysOfOne { shards, kind })
        })
    }
}

impl TaskWork for BalanceWork {
    fn overlaid(&self) -> Overlaid<'_> {
        Overlaid::All(&self.shards)
    }
}

fn balance_mode() -> BalanceMode {
    BalanceMode::Wit
}

fn cap() -> u64 {
    20_000
}
