//! `recipes/<hash>.json`: create-only pointers to the commits that made a recipe.

use capstan_plan::commit::{Commit, File};
use capstan_plan::id::{RecipeHash, RunId, ShardId, StageName};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::commits::READS;
use crate::error::{Error, Result};
use crate::store::{Created, Store};
use crate::{commits, files, lists, models};

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
    if !are_whole(store, &commit.outputs.manifests).await? {
        return Ok(None);
    }
    for page in 0..lists::output_pages(&commit.outputs) {
        let files = lists::output_page(store, &commit.outputs, page).await?;
        if !are_whole(store, &files).await? {
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

/// Whether the store has these files in their full size.
async fn are_whole(store: &Store, files: &[File]) -> Result<bool> {
    let sizes = futures::stream::iter(files.to_vec()).map(|file| async move {
        let size = store.size(&files::path(&file.digest)).await?;
        Ok::<_, Error>(size == Some(file.size_bytes))
    });
    let mut whole = sizes.buffer_unordered(READS);
    while let Some(is_whole) = whole.try_next().await? {
        if !is_whole {
            return Ok(false);
        }
    }
    Ok(true)
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

#[cfg(test)]
mod tests {
    use capstan_plan::commit::{FileKind, Outputs};
    use capstan_plan::id::{Digest, LeaseEpoch};

    use super::*;
    use crate::conformance::rows;

    fn commit(run: &str, outputs: Outputs) -> Commit {
        Commit {
            run: run.into(),
            stage: "s".into(),
            shard: "all".into(),
            attempt: run.into(),
            worker: "w".into(),
            lease_epoch: LeaseEpoch::default(),
            recipe: RecipeHash(Digest::of(b"recipe")),
            inputs: Vec::new(),
            outputs,
            wall_seconds: 0.0,
            cpu_seconds: 0.0,
            adopted: false,
        }
    }

    async fn commit_pages(store: &Store, run: &str, count: usize) -> Commit {
        let pages = files::write(store, FileKind::Pages, rows::page_links(count));
        let outputs = Outputs {
            files: vec![pages.await.unwrap()],
            ..Outputs::default()
        };
        let commit = commit(run, outputs);
        commits::commit(store, &commit).await.unwrap();
        publish(store, &commit).await.unwrap();
        commit
    }

    #[tokio::test]
    async fn a_pointer_to_short_files_is_replaced_by_the_next_commit() {
        let store = Store::memory();
        let first = commit_pages(&store, "first", 30).await;
        let second = commit_pages(&store, "second", 31).await;
        let adopted = adopt(&store, &first.recipe).await.unwrap();
        assert_eq!(adopted, Some(first.clone()), "a sound pointer stays");

        let path = files::path(&first.outputs.files[0].digest);
        let bytes = store.get(&path).await.unwrap();
        store.delete(&path).await.unwrap();
        store.create(&path, bytes.slice(..20)).await.unwrap();
        assert_eq!(adopt(&store, &first.recipe).await.unwrap(), None);
        publish(&store, &second).await.unwrap();
        let adopted = adopt(&store, &first.recipe).await.unwrap();
        assert_eq!(adopted, Some(second));
    }

    #[tokio::test]
    async fn a_model_with_a_damaged_file_is_not_adopted_and_is_written_again() {
        let store = Store::memory();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vocab.txt"), "a\nb\n").unwrap();
        let model = models::put(&store, folder.path()).await.unwrap();
        let outputs = Outputs {
            model: Some(model),
            ..Outputs::default()
        };
        let made = commit("first", outputs);
        commits::commit(&store, &made).await.unwrap();
        publish(&store, &made).await.unwrap();
        let found = adopt(&store, &made.recipe).await.unwrap();
        assert_eq!(found, Some(made.clone()));

        let path = format!("models/{model}/vocab.txt");
        store.delete(&path).await.unwrap();
        store.create(&path, &b"a"[..]).await.unwrap();
        assert_eq!(adopt(&store, &made.recipe).await.unwrap(), None);
        assert_eq!(models::put(&store, folder.path()).await.unwrap(), model);
        assert_eq!(store.get(&path).await.unwrap(), &b"a\nb\n"[..]);
        assert_eq!(adopt(&store, &made.recipe).await.unwrap(), Some(made));
    }
}
