//! S3 credentials that nothing names, so that the machine is asked for them.
//!
//! Without keys `object_store` asks the instance metadata service, which only machines of a cloud
//! have. Elsewhere its failure says nothing of what is missing.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use object_store::aws::{AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::{CredentialProvider, Result};

/// Whether a setting says where credentials come from, or that none are needed.
pub(super) fn is_named_by(key: &AmazonS3ConfigKey) -> bool {
    use AmazonS3ConfigKey::{
        AccessKeyId, ContainerCredentialsFullUri, ContainerCredentialsRelativeUri, SkipSignature,
        WebIdentityTokenFile,
    };
    matches!(
        key,
        AccessKeyId
            | ContainerCredentialsFullUri
            | ContainerCredentialsRelativeUri
            | SkipSignature
            | WebIdentityTokenFile
    )
}

/// Nothing names credentials, and the machine has none.
#[derive(Debug, thiserror::Error)]
#[error("no credentials")]
struct Missing;

/// Whether the backend failed because there are no credentials.
pub(super) fn are_missing(error: &object_store::Error) -> bool {
    error.source().is_some_and(|source| source.is::<Missing>())
}

/// The credentials of the machine.
#[derive(Debug)]
pub(super) struct OfMachine {
    provider: AwsCredentialProvider,
    /// Whether the machine has ever given any: a later failure may pass.
    has_given: AtomicBool,
}

impl OfMachine {
    pub(super) fn new(provider: AwsCredentialProvider) -> Self {
        Self {
            provider,
            has_given: AtomicBool::new(false),
        }
    }
}

#[async_trait::async_trait]
impl CredentialProvider for OfMachine {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        match self.provider.get_credential().await {
            Ok(credential) => {
                self.has_given.store(true, Ordering::Relaxed);
                Ok(credential)
            }
            Err(error) if self.has_given.load(Ordering::Relaxed) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the machine gives no credentials");
                Err(object_store::Error::Unauthenticated {
                    path: String::new(),
                    source: Box::new(Missing),
                })
            }
        }
    }
}
