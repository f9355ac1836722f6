//! Access control, by the role in the caller's certificate and by the bearer token.
//!
//! Every request is checked by its path before its body is read. A path without a rule is rejected.
//! The roles of the tasks that a worker requests are checked once the body is read ([`check_roles`]).
//!
//! ```text
//! Lease, Heartbeat, Complete, Fail, Release,
//! Leave                                        worker or trainer; TRAIN is for trainers only
//! JoinRing                                     trainer
//! SubmitRun, PlanRun, CancelRun, RetryRun,
//! PruneRuns,
//! Watch, ListRuns, GetRun                      operator, with the token
//! grpc.health.v1.Health                        every certificate of the cluster
//! ```
//! Without certificates (loopback, or `insecure`) there are no roles: only the token is checked.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use capstan_plan::task::Role as Task;
use capstan_runtime::bearer;
use capstan_runtime::config::Secret;
use capstan_runtime::tls::{Identity, Role, peer_role};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::ServerTlsConfig;
use tonic::{Extensions, Status};
use tower::{Layer, Service};

use crate::connection::Connection;

/// The credentials that a coordinator requires. Cheap to clone; the default requires none.
#[derive(Clone, Default)]
pub struct Access {
    tls: Option<ServerTlsConfig>,
    token: Option<Arc<Secret>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("certificates", &self.tls.is_some())
            .field("token", &self.token.is_some())
            .finish()
    }
}

impl Access {
    /// - `identity`: the coordinator's own. If given, every caller must present a certificate.
    /// - `token`: the token that operators must present; `None` requires none.
    pub fn new(identity: Option<&Identity>, token: Option<Secret>) -> Self {
        Self {
            tls: identity.map(Identity::server),
            token: token.map(Arc::new),
        }
    }

    /// The TLS settings of the listener; `None` without TLS.
    pub(crate) fn tls(&self) -> Option<ServerTlsConfig> {
        self.tls.clone()
    }

    /// Checks whether a caller may call `path`.
    ///
    /// - `authorization`: the value of the header `authorization`.
    fn check(
        &self,
        path: &str,
        authorization: Option<&str>,
        extensions: &Extensions,
    ) -> Result<(), AccessDenied> {
        let rule = Rule::of(path).ok_or(AccessDenied::Unknown)?;
        if self.tls.is_some() {
            let role = peer_role::<Connection>(extensions).ok_or(AccessDenied::NoRole)?;
            if !rule.roles.contains(&role) {
                return Err(AccessDenied::Role { role, rule });
            }
        }
        match &self.token {
            Some(token) if rule.needs_token => match authorization.and_then(bearer::parse) {
                None => Err(AccessDenied::NoToken),
                Some(presented) if token.matches(presented) => Ok(()),
                Some(_) => Err(AccessDenied::WrongToken),
            },
            _ => Ok(()),
        }
    }
}

/// Checks whether the caller may lease tasks of these roles. Without certificates, every caller may.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub(crate) fn check_roles<'a>(
    extensions: &Extensions,
    tasks: impl IntoIterator<Item = &'a Task>,
) -> Result<(), Status> {
    let Some(role) = peer_role::<Connection>(extensions) else {
        return Ok(());
    };
    for task in tasks {
        let wanted = match task {
            Task::Train => Role::Trainer,
            _ => Role::Worker,
        };
        if role != wanted {
            let refusal = AccessDenied::Task { role, wanted };
            return Err(refusal.status());
        }
    }
    Ok(())
}

/// The callers that may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    roles: &'static [Role],
    needs_token: bool,
}

const HOLDERS: Rule = Rule {
    roles: &[Role::Worker, Role::Trainer],
    needs_token: false,
};
const RANKS: Rule = Rule {
    roles: &[Role::Trainer],
    needs_token: false,
};
const OPERATORS: Rule = Rule {
    roles: &[Role::Operator],
    needs_token: true,
};
const ANYBODY: Rule = Rule {
    roles: &Role::ALL,
    needs_token: false,
};

impl Rule {
    /// The rule of a path; `None` for a path that is not listed.
    fn of(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        match (service, method) {
            ("capstan.v1.Coordinator", method) => match method {
                "Lease" | "Heartbeat" | "Complete" | "Fail" | "Release" | "Leave" => Some(HOLDERS),
                "SubmitRun" | "PlanRun" | "CancelRun" | "RetryRun" | "PruneRuns" | "Watch"
                | "ListRuns" | "GetRun" => Some(OPERATORS),
                _ => None,
            },
            ("capstan.v1.Ring", "JoinRing") => Some(RANKS),
            ("grpc.health.v1.Health", _) => Some(ANYBODY),
            _ => None,
        }
    }
}

/// Why a request is rejected.
#[derive(Debug, Clone, Copy)]
enum AccessDenied {
    Unknown,
    NoRole,
    Role { role: Role, rule: Rule },
    Task { role: Role, wanted: Role },
    NoToken,
    WrongToken,
}

impl AccessDenied {
    fn status(self) -> Status {
        let status = match self {
            Self::Unknown => Status::unimplemented("this coordinator has no such method"),
            Self::NoRole => Status::unauthenticated(
                "the certificate names no role: take one that `capstan certs` made",
            ),
            Self::Role { role, rule } => {
                let allowed: Vec<_> = rule.roles.iter().map(|role| role.name()).collect();
                Status::permission_denied(format!(
                    "the certificate has role {role}, this call requires role {}",
                    allowed.join(" or ")
                ))
            }
            Self::Task { role, wanted } => Status::permission_denied(format!(
                "the certificate has role {role}, these tasks require role {wanted}"
            )),
            Self::NoToken => Status::unauthenticated(
                "a token is required: set [safety] token or token_file to the coordinator's",
            ),
            Self::WrongToken => Status::unauthenticated(
                "the token is wrong: set [safety] token or token_file to the coordinator's",
            ),
        };
        let code = format!("{:?}", status.code());
        metrics::counter!(capstan_runtime::metrics::REFUSALS, "code" => code).increment(1);
        status
    }
}

/// Adds the checks of [`Access`] to every service.
#[derive(Debug, Clone)]
pub(crate) struct AccessLayer(pub(crate) Access);

impl<S> Layer<S> for AccessLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            access: self.0.clone(),
            inner,
        }
    }
}

/// A service with the checks of [`Access`].
#[derive(Debug, Clone)]
pub(crate) struct Guarded<S> {
    access: Access,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future =
        futures::future::Either<S::Future, std::future::Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let authorization = request.headers().get(bearer::HEADER);
        let authorization = authorization.and_then(|value| value.to_str().ok());
        let checked = self.access.check(path, authorization, request.extensions());
        match checked {
            Ok(()) => futures::future::Either::Left(self.inner.call(request)),
            Err(refusal) => {
                let status = refusal.status();
                tracing::warn!(path, reason = status.message(), "a request was refused");
                let response = status.into_http();
                futures::future::Either::Right(std::future::ready(Ok(response)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every method of the proto files.
    fn methods() -> Vec<String> {
        let sources = [
            include_str!("../../../proto/capstan/v1/coordinator.proto"),
            include_str!("../../../proto/capstan/v1/ring.proto"),
        ];
        let mut methods = Vec::new();
        for source in sources {
            let mut service = "";
            for line in source.lines().map(str::trim) {
                if let Some(rest) = line.strip_prefix("service ") {
                    service = rest.split([' ', '{']).next().unwrap();
                } else if let Some(rest) = line.strip_prefix("rpc ") {
                    let method = rest.split(['(', ' ']).next().unwrap();
                    methods.push(format!("/capstan.v1.{service}/{method}"));
                }
            }
        }
        methods
    }

    #[test]
    fn every_method_has_a_rule_and_no_other_path_has() {
        let methods = methods();
        assert!(methods.len() >= 13, "{methods:?}");
        for path in &methods {
            assert!(Rule::of(path).is_some(), "{path} has no rule");
        }
        for path in [
            "",
            "/",
            "/x",
            "/capstan.v1.Coordinator/Else",
            "/capstan.v1.Ring/",
        ] {
            assert_eq!(Rule::of(path), None, "{path}");
        }
    }

    #[test]
    fn methods_of_runs_need_the_token() {
        let token = Some(Secret::from("0123456789abcdef".to_owned()));
        let access = Access::new(None, token);
        let check = |path: &str, header| access.check(path, header, &Extensions::new());
        for path in methods() {
            let needs = Rule::of(&path).unwrap().needs_token;
            assert_eq!(check(&path, None).is_err(), needs, "{path}");
            assert_eq!(
                check(&path, Some("Bearer 0123456789abcdee")).is_err(),
                needs
            );
            check(&path, Some("Bearer 0123456789abcdef")).unwrap();
        }
        let wrong = check("/capstan.v1.Coordinator/Watch", Some("Bearer x")).unwrap_err();
        assert_eq!(wrong.status().code(), tonic::Code::Unauthenticated);
        assert!(!format!("{access:?}").contains("0123"));
    }
}
