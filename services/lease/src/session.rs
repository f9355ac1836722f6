//! The session of a worker's process.

use std::sync::Arc;

/// Random bytes that this process sends with its requests. The coordinator binds the worker's name to
/// them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Session(Arc<[u8]>);

impl Session {
    /// 122 bits of the operating system's randomness.
    #[expect(clippy::disallowed_methods, reason = "a secret must be random")]
    pub(crate) fn random() -> Self {
        Self(Arc::from(uuid::Uuid::new_v4().as_bytes().as_slice()))
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}
