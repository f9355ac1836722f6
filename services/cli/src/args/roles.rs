//! Arguments of the roles. Each flag overrides a setting of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use capstan_runtime::Overrides;
use clap::Args as ClapArgs;

/// Flags that every role takes.
#[derive(Debug, ClapArgs)]
pub struct Ready {
    /// Store: a folder, s3://bucket/prefix or another object store URL [store.url].
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Listen on addresses beyond loopback without certificates [safety.insecure].
    #[arg(long)]
    pub insecure: bool,
    /// Write this file when the role listens: JSON with `role` and the bound addresses.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

impl Ready {
    /// The settings that the flags override.
    pub fn overrides(&self) -> Overrides {
        let overrides = Overrides::new().set_some("store.url", self.store.clone());
        overrides.set_some("safety.insecure", self.insecure.then_some(true))
    }
}

/// `capstan coordinator`.
#[derive(Debug, ClapArgs)]
pub struct Coordinator {
    /// Address to listen on; port 0 takes a free one [coordinator.listen].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Database: sqlite:FILE [coordinator.database].
    #[arg(long, value_name = "URL")]
    pub database: Option<String>,
    #[command(flatten)]
    pub ready: Ready,
}

impl Coordinator {
    /// The settings that the flags override.
    pub fn overrides(&self) -> Overrides {
        let listen = self.listen.map(|listen| listen.to_string());
        self.ready
            .overrides()
            .set_some("coordinator.listen", listen)
            .set_some("coordinator.database", self.database.clone())
    }
}

/// `capstan worker`.
#[derive(Debug, ClapArgs)]
pub struct Worker {
    /// Roles of the worker: crawl, curate, caption, filter, evaluate [worker.roles].
    #[arg(long, value_name = "ROLE,...", value_delimiter = ',')]
    pub roles: Option<Vec<String>>,
    /// Coordinator [coordinator.address].
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
    /// Name, unique among live workers [worker.name].
    #[arg(long)]
    pub name: Option<String>,
    /// Device of the models: auto, cpu, cuda or cuda:N [device.spec].
    #[arg(long)]
    pub device: Option<String>,
    #[command(flatten)]
    pub ready: Ready,
}

impl Worker {
    /// The settings that the flags override.
    pub fn overrides(&self) -> Overrides {
        self.ready
            .overrides()
            .set_some("worker.roles", self.roles.clone())
            .set_some("coordinator.address", self.coordinator.clone())
            .set_some("worker.name", self.name.clone())
            .set_some("device.spec", self.device.clone())
    }
}

/// `capstan trainer`.
#[derive(Debug, ClapArgs)]
pub struct Trainer {
    /// Coordinator [coordinator.address].
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
    /// Name, unique among live workers [trainer.name].
    #[arg(long)]
    pub name: Option<String>,
    /// Address on which the rank listens for other ranks; port 0 takes a free one [trainer.listen].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Address at which other ranks reach it [trainer.advertise].
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Device of the rank: auto, cpu, cuda or cuda:N [device.spec].
    #[arg(long)]
    pub device: Option<String>,
    #[command(flatten)]
    pub ready: Ready,
}

impl Trainer {
    /// The settings that the flags override.
    pub fn overrides(&self) -> Overrides {
        let listen = self.listen.map(|listen| listen.to_string());
        self.ready
            .overrides()
            .set_some("coordinator.address", self.coordinator.clone())
            .set_some("trainer.name", self.name.clone())
            .set_some("trainer.listen", listen)
            .set_some("trainer.advertise", self.advertise.clone())
            .set_some("device.spec", self.device.clone())
    }
}

/// `capstan up`.
#[derive(Debug, ClapArgs)]
pub struct Up {
    /// Number of workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Number of trainers: the maximum number of ranks of a training.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub trainers: u16,
    /// Address of the coordinator; port 0 takes a free one [coordinator.listen].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Device of the models: auto, cpu, cuda or cuda:N [device.spec].
    #[arg(long)]
    pub device: Option<String>,
    #[command(flatten)]
    pub ready: Ready,
}

impl Up {
    /// The settings that the flags override.
    pub fn overrides(&self) -> Overrides {
        let listen = self.listen.map(|listen| listen.to_string());
        self.ready
            .overrides()
            .set_some("coordinator.listen", listen)
            .set_some("device.spec", self.device.clone())
    }
}

/// `capstan demoweb`.
#[derive(Debug, ClapArgs)]
pub struct DemoWeb {
    /// Address and port of the first host. Further hosts take the next ports; port 0 takes free ones.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8001")]
    pub listen_from: SocketAddr,
    /// Host name at which crawlers reach it, if it differs from the listening address.
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Folder for the annotated sets; sets of the same web are kept.
    #[arg(long, value_name = "DIR")]
    pub annotations: PathBuf,
    /// Description of the web (see `capstan demo --print-world`).
    #[arg(long, value_name = "FILE.toml")]
    pub world: Option<PathBuf>,
    /// Seed of the web.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Log every request to this file, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Write this file when the web listens: JSON with `role` and `hosts`.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}
