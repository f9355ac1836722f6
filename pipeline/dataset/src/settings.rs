//! Settings of stages: `settings/<digest>.json`, named by the digest of their bytes. The tasks of a
//! stage name them instead of holding them, so that a list of half a million queries is stored once.

use capstan_plan::id::Digest;
use capstan_plan::stage::Kind;

use crate::error::{Error, Result};
use crate::store::Store;

fn path(digest: &Digest) -> String {
    format!("settings/{digest}.json")
}

/// Stores the settings of a stage; those that are there already stay.
///
/// # Errors
/// Those of [`Store::create`].
pub async fn put(store: &Store, kind: &Kind) -> Result<Digest> {
    let json = serde_json::to_vec(kind).map_err(|error| Error::damaged("settings", error))?;
    let digest = Digest::of(&json);
    store.create(&path(&digest), json).await?;
    Ok(digest)
}

/// The settings of this digest.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Damaged`]: the bytes have another digest, or another version of the
/// program wrote them.
pub async fn get(store: &Store, digest: &Digest) -> Result<Kind> {
    let path = path(digest);
    let bytes = store.get(&path).await?;
    if Digest::of(&bytes) != *digest {
        return Err(Error::damaged(path, "its bytes have another digest"));
    }
    serde_json::from_slice(&bytes).map_err(|error| Error::damaged(path, error))
}

#[cfg(test)]
mod tests {
    use capstan_plan::Pipeline;

    use super::*;

    #[tokio::test]
    async fn settings_are_stored_once_and_read_by_their_digest() {
        let store = Store::memory();
        let text = "name = \"p\"\n[[stage]]\nname = \"m\"\nkind = \"model\"\nsource = \"m\"\n";
        let kind = Pipeline::from_toml(text, "p.toml")
            .unwrap()
            .stages
            .remove(0)
            .kind;
        let digest = put(&store, &kind).await.unwrap();
        assert_eq!(digest, kind.digest());
        assert_eq!(put(&store, &kind).await.unwrap(), digest);
        assert_eq!(get(&store, &digest).await.unwrap(), kind);

        let path = path(&digest);
        store.delete(&path).await.unwrap();
        assert!(matches!(
            get(&store, &digest).await,
            Err(Error::NotFound { .. })
        ));
        store.create(&path, &b"{}"[..]).await.unwrap();
        assert!(matches!(
            get(&store, &digest).await,
            Err(Error::Damaged { .. })
        ));
    }
}
