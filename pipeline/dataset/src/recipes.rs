//! `recipes/<hash>.json`: create-only pointers to the commits that made a recipe.

use capstan_plan::commit::Commit;
use capstan_plan::id::{RecipeHash, RunId, ShardId, StageName};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::Store;
use crate::{commits, files, models};

/// Where the commit stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The run.
    pub run: RunId,
    /// The stage.
    pub stage: StageName,
    /// The shard.
    pub shard: ShardId,
}

fn path(recipe: &RecipeHash) -> String {
    format!("recipes/{recipe}.json")
}

/// The commit that made this recipe, if it and all its outputs are still there.
/// The caller commits its outputs anew, for its own task, as `adopted`.
///
/// # Errors
/// Those of the store; [`Error::Damaged`](crate::Error::Damaged).
pub async fn adopt(store: &Store, recipe: &RecipeHash) -> Result<Option<Commit>> {
    let Some(at) = store.get_json::<Pointer>(&path(recipe)).await? else {
        return Ok(None);
    };
    let Some(commit) = commits::read(store, &at.run, &at.stage, &at.shard).await? else {
        return Ok(None);
    };
    if commit.recipe != *recipe {
        return Ok(None);
    }
    for file in &commit.outputs.files {
        if store.size(&files::path(&file.digest)).await? != Some(file.size_bytes) {
            return Ok(None);
        }
    }
    if let Some(model) = &commit.outputs.model
        && !models::exists(store, model).await?
    {
        return Ok(None);
    }
    Ok(Some(commit))
}

/// Points the recipe of `commit` at it; an earlier pointer stays.
///
/// # Errors
/// Those of [`Store::create`].
pub async fn publish(store: &Store, commit: &Commit) -> Result<()> {
    let pointer = Pointer {
        run: commit.run.clone(),
        stage: commit.stage.clone(),
        shard: commit.shard.clone(),
    };
    store
        .create_json(&path(&commit.recipe), &pointer)
        .await
        .map(|_| ())
}
