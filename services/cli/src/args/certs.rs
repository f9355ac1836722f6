//! Arguments of `capstan certs`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// `capstan certs`.
#[derive(Debug, ClapArgs)]
pub struct Certs {
    /// Folder for ca.pem, ca.key, a certificate and key per role, and the token.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub out: PathBuf,
    /// Host name or address in the certificates beside the role; repeatable.
    #[arg(long = "name", value_name = "HOST")]
    pub names: Vec<String>,
    /// Validity in days.
    #[arg(long, default_value_t = 365)]
    pub days: u32,
    /// Reissue the certificate of this role from the CA in DIR, with a new key: coordinator, worker,
    /// trainer or operator.
    #[arg(long)]
    pub role: Option<String>,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}
