//! Opens a store from a URL.

use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::local::SyncedFolder;
use super::{Store, Waits, credentials, process};
use crate::error::{Error, Result, one_line};

/// Limit for setting up a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for one request, body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(180);

impl Store {
    /// Opens a folder (created if absent), `file://`, `memory://` or `s3://bucket/prefix`.
    ///
    /// S3 takes credentials, region and endpoint from the usual variables
    /// (`AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL ...`);
    /// an `http://` endpoint is allowed. Nothing is contacted: see [`Store::probe`].
    ///
    /// # Errors
    /// [`Error::Url`], [`Error::Local`], [`Error::StoreFull`].
    pub fn open(url: &str) -> Result<Self> {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        Self::open_with(url, std::env::vars_os().filter_map(text))
    }

    /// As [`Store::open`], with these variables instead of the environment.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(
        url: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let Some((scheme, _)) = url.split_once("://") else {
            return Self::open_folder(FsPath::new(url));
        };
        let fail = |reason: String| Error::Url {
            url: url.to_owned(),
            reason,
        };
        let parsed = Url::parse(url).map_err(|error| fail(error.to_string()))?;
        match scheme {
            "file" => {
                let folder = parsed.to_file_path();
                Self::open_folder(&folder.map_err(|()| fail("it names no folder".to_owned()))?)
            }
            "memory" => Ok(Self::memory()),
            "s3" | "s3a" if parsed.host_str().is_none_or(str::is_empty) => {
                Err(fail("it names no bucket".to_owned()))
            }
            "s3" | "s3a" => Self::open_s3(&parsed, variables).map_err(|error| match error {
                object_store::Error::Generic { source, .. } => fail(one_line(&source.to_string())),
                other => fail(one_line(&other.to_string())),
            }),
            other => Err(fail(format!("unknown scheme `{other}`"))),
        }
    }

    /// A new store in memory; its objects are dropped with its last clone.
    pub fn memory() -> Self {
        Self::over(Arc::new(InMemory::new()), Path::default(), "memory://")
    }

    fn open_folder(folder: &FsPath) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|error| Error::local(folder, error))?;
        let folder = folder
            .canonicalize()
            .map_err(|error| Error::local(folder, error))?;
        let url = folder.display().to_string();
        let backend = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|error| Error::Url {
                url: url.clone(),
                reason: one_line(&error.to_string()),
            })?
            // As on S3, a folder without objects does not exist.
            .with_automatic_cleanup(true);
        let backend = Arc::new(SyncedFolder::new(backend));
        let mut store = Self::over(backend, Path::default(), &url);
        store.folder = Some(folder.into());
        Ok(store.with_own_waits())
    }

    fn open_s3(
        url: &Url,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> object_store::Result<Self> {
        let mut builder = AmazonS3Builder::new();
        let mut endpoint = None;
        let mut names_credentials = false;
        for (name, value) in variables {
            if !name.starts_with("AWS_") {
                continue;
            }
            if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                if matches!(key, AmazonS3ConfigKey::Endpoint) {
                    endpoint = Some(value.clone());
                }
                names_credentials |= credentials::is_named_by(&key);
                builder = builder.with_config(key, value);
            }
        }
        let over_http = endpoint
            .as_deref()
            .is_some_and(|e| e.starts_with("http://"));
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT)
            .with_allow_http(over_http);
        // `Store` retries, because a create whose answer was lost must be read back.
        let retry = RetryConfig {
            max_retries: 0,
            retry_timeout: REQUEST_TIMEOUT,
            ..RetryConfig::default()
        };
        let bucket = url.host_str().unwrap_or_default();
        builder = builder
            .with_bucket_name(bucket)
            .with_client_options(client)
            .with_retry(retry);
        if !names_credentials {
            let of_machine = builder.clone().build()?.credentials().clone();
            builder = builder.with_credentials(Arc::new(credentials::OfMachine::new(of_machine)));
        }
        let backend = builder.build()?;
        let prefix = Path::parse(url.path().trim_matches('/'))?;
        let mut shown = format!("s3://{bucket}/{prefix}")
            .trim_end_matches('/')
            .to_owned();
        if let Some(endpoint) = endpoint {
            shown.push_str(&format!(" at {endpoint}"));
        }
        Ok(Self::over(Arc::new(backend), prefix, &shown).with_own_waits())
    }

    /// Other processes over the same store wait for other times.
    fn with_own_waits(mut self) -> Self {
        self.waits = Arc::new(Waits::new(process()));
        self
    }

    /// A store over any backend; tests inject failures with it. Its waits are the same in every
    /// process.
    pub fn over(backend: Arc<dyn ObjectStore>, prefix: Path, url: &str) -> Self {
        Self {
            backend,
            prefix,
            url: url.into(),
            folder: None,
            cache: None,
            waits: Arc::new(Waits::new(0)),
            answers: Arc::default(),
        }
    }
}
