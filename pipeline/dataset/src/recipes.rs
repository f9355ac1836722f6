//! `recipes/<hash>.json`: create-only pointers to the commits that made a recipe.

use capstan_plan::commit::Commit;
use capstan_plan::id::{RecipeHash, RunId, ShardId, StageName};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::{Created, Store};
use crate::{commits, files, models};

/// The commit that a recipe led to.
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

/// The commit that made this recipe, if it and all of its outputs are in the store, with the sizes
/// that the commit records. The caller commits the outputs again for its own task, as `adopted`.
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
        && !models::is_whole(store, model).await?
    {
        return Ok(None);
    }
    Ok(Some(commit))
}

/// Points the recipe of `commit` at it. An earlier pointer stays, unless its commit or outputs are
/// gone or short: then no run could adopt the recipe again, and it is replaced.
///
/// # Errors
/// Those of [`Store::create`].
pub async fn publish(store: &Store, commit: &Commit) -> Result<()> {
    let pointer = Pointer {
        run: commit.run.clone(),
        stage: commit.stage.clone(),
        shard: commit.shard.clone(),
    };
    let path = path(&commit.recipe);
    if store.create_json(&path, &pointer).await? == Created::AlreadyExists
        && adopt(store, &commit.recipe).await?.is_none()
    {
        store.replace_json(&path, &pointer).await?;
    }
    Ok(())
}
