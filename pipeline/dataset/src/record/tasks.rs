//! Tasks of the stage that made a dataset version: their recipes, and the shards given up.

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use capstan_plan::commit::FileKind;
use capstan_plan::id::{RecipeHash, ShardId};

use super::columns::{optional_digests, optional_strings};
use super::{Columns, DIGEST, Record, RowHasher, optional, schema};

/// A task of the stage that made a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskRow {
    /// The recipe of a task that committed.
    Recipe(RecipeHash),
    /// The shard of a task that was given up: the version lacks it.
    Missing(ShardId),
}

impl TaskRow {
    fn recipe(&self) -> Option<&RecipeHash> {
        match self {
            Self::Recipe(recipe) => Some(recipe),
            Self::Missing(_) => None,
        }
    }

    fn missing(&self) -> Option<&str> {
        match self {
            Self::Recipe(_) => None,
            Self::Missing(shard) => Some(shard.as_str()),
        }
    }
}

impl Record for TaskRow {
    const KINDS: &'static [FileKind] = &[FileKind::Tasks];

    /// Exactly one of the two columns is set in a row.
    fn schema() -> SchemaRef {
        schema(vec![
            optional("recipe", DIGEST),
            optional("missing", DataType::Utf8),
        ])
    }

    fn encode(rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(
            Self::schema(),
            vec![
                optional_digests(rows.iter().map(|row| row.recipe().map(|recipe| &recipe.0))),
                optional_strings(rows.iter().map(TaskRow::missing)),
            ],
        )
    }

    fn decode(columns: &Columns) -> Result<Vec<Self>, String> {
        let recipes = columns.optional_digests("recipe")?.into_iter();
        let missing = columns.optional_texts("missing")?;
        recipes
            .zip(missing)
            .enumerate()
            .map(|(row, task)| match task {
                (Some(recipe), None) => Ok(TaskRow::Recipe(RecipeHash(recipe))),
                (None, Some(shard)) => Ok(TaskRow::Missing(ShardId(shard))),
                _ => Err(format!("row {row} is neither a recipe nor a missing shard")),
            })
            .collect()
    }

    fn hash(&self, hasher: &mut RowHasher) {
        match self {
            Self::Recipe(recipe) => hasher.number(0).digest(&recipe.0),
            Self::Missing(shard) => hasher.number(1).text(shard.as_str()),
        };
    }
}
