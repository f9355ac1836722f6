//! The bearer token on calls: clients send it, the coordinator reads it. RFC 6750, section 2.1.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::config::Secret;

/// The header, or gRPC metadata key, that carries the token.
pub const HEADER: &str = "authorization";
const SCHEME: &str = "Bearer ";

/// Adds the token to every call of a client: `CoordinatorClient::with_interceptor(channel,
/// bearer)`. Without a token it does nothing.
#[derive(Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// An interceptor that sends `token`. The token was checked when the configuration was read.
    pub fn new(token: Option<&Secret>) -> Self {
        let value = |token: &Secret| {
            let text = format!("{SCHEME}{}", token.reveal());
            let mut value: MetadataValue<Ascii> = text.parse().ok()?;
            // Keeps the value out of logs and of the HTTP/2 header table.
            value.set_sensitive(true);
            Some(value)
        };
        Self(token.and_then(value))
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert(HEADER, value.clone());
        }
        Ok(request)
    }
}

/// The token in the value of [`HEADER`], if its scheme is `Bearer`.
pub fn parse(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_sent_is_read_and_never_printed() {
        let token = Secret::from("0123456789abcdef".to_owned());
        let mut bearer = Bearer::new(Some(&token));
        let request = bearer.call(Request::new(())).unwrap();
        let value = request.metadata().get(HEADER).unwrap();
        assert_eq!(parse(value.to_str().unwrap()), Some("0123456789abcdef"));
        assert!(!format!("{bearer:?} {:?}", request.metadata()).contains("0123"));
        let bare = Bearer::new(None).call(Request::new(())).unwrap();
        assert!(bare.metadata().get(HEADER).is_none());
    }

    #[test]
    fn other_schemes_have_no_token() {
        assert_eq!(parse("Basic 0123456789abcdef"), None);
        assert_eq!(parse("Bearer"), None);
        assert_eq!(parse("bearer x"), Some("x"));
    }
}
