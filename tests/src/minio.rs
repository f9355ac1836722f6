//! MinIO for tests: the real server on a free port with a folder of its own, stopped on drop.
//!
//! The binary is `minio` on the path, or built once with `go install`. Without both, tests print one
//! line and pass; in continuous integration they fail.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use capstan_dataset::Store;

use crate::go::Program;
use crate::place::Place;

/// Pinned to the last commit of the archived upstream.
const MINIO: Program = Program {
    name: "minio",
    module: "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
    takes: "three minutes",
};
const USER: &str = "capstan-test";
const PASSWORD: &str = "capstan-test-secret";
/// Limit for a server to become ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Attempts to start: another process may take the free port meanwhile.
const STARTS: u32 = 3;

/// A running server with one bucket.
pub struct Minio {
    server: Child,
    /// `http://<address>:<port>`.
    endpoint: String,
    bucket: String,
    /// Folder of its data; removed on drop.
    _folder: tempfile::TempDir,
}

impl Minio {
    /// Starts a server and creates a bucket; `None`, after one line, if there is no binary.
    ///
    /// # Errors
    /// If the server does not start.
    ///
    /// # Panics
    /// In continuous integration (`CI` is set), if there is no binary.
    pub async fn start() -> Result<Option<Self>> {
        Self::start_at(Place::default()).await
    }

    /// As [`Minio::start`], in a given place.
    ///
    /// # Errors
    /// As [`Minio::start`].
    ///
    /// # Panics
    /// As [`Minio::start`].
    pub async fn start_at(place: Place) -> Result<Option<Self>> {
        let found = tokio::task::spawn_blocking(|| MINIO.find_or_say()).await?;
        let Some(binary) = found else {
            return Ok(None);
        };
        let mut last = None;
        for _ in 0..STARTS {
            match Self::start_once(&binary, &place).await {
                Ok(minio) => return Ok(Some(minio)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt to start")?)
    }

    async fn start_once(binary: &Path, place: &Place) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let bucket = "capstan".to_owned();
        // MinIO treats each folder in its data folder as a bucket.
        std::fs::create_dir_all(folder.path().join("data").join(&bucket))?;
        // Free on this host. In a network namespace no other process listens.
        let (api, console) = (free_port()?, free_port()?);
        let address = place.address;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let server = place
            .command(binary)
            .args(["server", "--quiet", "--address"])
            .arg(format!("{address}:{api}"))
            .arg("--console-address")
            .arg(format!("{address}:{console}"))
            .arg(folder.path().join("data"))
            .env("MINIO_ROOT_USER", USER)
            .env("MINIO_ROOT_PASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} cannot be started", binary.display()))?;
        let mut minio = Self {
            server,
            endpoint: format!("http://{address}:{api}"),
            bucket,
            _folder: folder,
        };
        minio.ready().await?;
        Ok(minio)
    }

    async fn ready(&mut self) -> Result<()> {
        let health = format!("{}/minio/health/live", self.endpoint);
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()?;
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if let Some(status) = self.server.try_wait()? {
                bail!("MinIO exited with {status}: {}", self.log());
            }
            if let Ok(answer) = client.get(&health).send().await
                && answer.status().is_success()
                && self.store("probe")?.probe().await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("MinIO is not ready after {START_TIMEOUT:?}: {}", self.log())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self._folder.path().join("log")).unwrap_or_default()
    }

    /// URL of the server, such as `http://127.0.0.1:9000`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// `s3://<bucket>/<prefix>`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.bucket)
    }

    /// Environment variables with which a process opens [`Minio::url`].
    pub fn variables(&self) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", USER),
            ("AWS_SECRET_ACCESS_KEY", PASSWORD),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", &self.endpoint),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// A store under `prefix` of the bucket.
    ///
    /// # Errors
    /// Those of [`Store::open_with`].
    pub fn store(&self, prefix: &str) -> Result<Store> {
        Ok(Store::open_with(&self.url(prefix), self.variables())?)
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
