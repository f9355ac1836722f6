//! Arguments of `capstan certs`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

/// `capstan certs`.
#[derive(Debug, ClapArgs)]
pub struct Certs {
    /// Folder for ca.pem, ca.key, a certificate and key per role, and the token.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub out: PathBuf,
    /// Host name or address that certificates carry beside their role; may be given more than once.
    #[arg(long = "name", value_name = "HOST")]
    pub names: Vec<String>,
    /// Days that they are valid.
    #[arg(long, default_value_t = 365)]
    pub days: u32,
    /// Issue this role's certificate again from the CA in DIR, with a new key: coordinator, worker,
    /// trainer or operator.
    #[arg(long)]
    pub role: Option<String>,
    /// JSON on stdout.
    #[arg(long)]
    pub json: bool,
}
