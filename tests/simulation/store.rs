//! The object store of a world: objects in memory, behind outages, delays and dead processes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use capstan_dataset::Store;
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::world::World;

/// The objects as one process reaches them.
#[derive(Debug)]
struct Faulty {
    world: World,
    objects: Arc<InMemory>,
    /// Of the coordinator's process: whether it is dead.
    dead: Option<Arc<AtomicBool>>,
}

/// The store of `world`.
///
/// - `dead`: whether the process is dead, for the coordinator's; it also stands still while frozen.
pub fn open(world: &World, objects: &Arc<InMemory>, dead: Option<Arc<AtomicBool>>) -> Store {
    let backend = Faulty {
        world: world.clone(),
        objects: objects.clone(),
        dead,
    };
    Store::over(Arc::new(backend), Path::from("world"), "world://")
}

impl Faulty {
    async fn reach(&self) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(3)).await;
        if let Some(dead) = &self.dead {
            self.world.thawed().await;
            if dead.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        }
        if !self.world.is_store_away() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        Err(object_store::Error::Generic {
            store: "world",
            source: Box::new(reset),
        })
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("world")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.reach().await?;
        let put = self.objects.put_opts(location, payload, options).await;
        // The answer may be lost.
        self.reach().await?;
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.reach().await?;
        self.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reach().await?;
        self.objects.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.reach().await?;
        self.objects.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let world = self.world.clone();
        let listed = self.objects.list(prefix);
        let is_out = move || world.faults().store.load(Ordering::Relaxed);
        let reset = || object_store::Error::Generic {
            store: "world",
            source: Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
        };
        listed
            .map(move |meta| if is_out() { Err(reset()) } else { meta })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.reach().await?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.reach().await?;
        self.objects.copy_opts(from, to, options).await
    }
}
