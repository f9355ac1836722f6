//! `capstan demoweb`: the miniature web as a process, one port per host.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use capstan_demoweb::{Site, World};
use capstan_plan::id::Digest;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::process::{MANY_BLOCKING, Ready, bind, process};
use crate::args;
use crate::error::{Exit, ExpectedError, OrExit};
use crate::output::write_whole;
use crate::settings::Settings;

/// Name of the file that marks a folder of annotated sets.
const MARKER: &str = "demoweb.json";
/// The names of the sets; each is a folder.
const SETS: [&str; 3] = ["human", "evaluation", "zero_shot"];
/// Time between two flushes of requests to the log file.
const FLUSH: Duration = Duration::from_millis(200);

/// Writes the annotated sets and serves the web until a signal. The first line on stdout is the
/// `[crawl] hosts` table for the workers.
///
/// # Errors
/// Configuration, for an invalid world; usage, for a folder with other content; unavailable, if a
/// port is in use.
pub fn run(args: &args::DemoWeb, settings: &Settings) -> Result<(), ExpectedError> {
    let config = settings.load()?;
    let world = world(args.world.as_deref())?;
    let ready = Ready::at("demoweb", args.ready_file.as_deref())?;
    process(&config, MANY_BLOCKING, async |shutdown| {
        let site = Arc::new(Site::build(&world, args.seed));
        let (hosts, listeners) = listen(args, &site).await?;
        lay_out(&site, &args.annotations)?;
        let log = args.log.as_deref().map(open_log).transpose()?;
        println!("hosts = {}", inline_table(&hosts));
        std::io::stdout().flush().or_exit(Exit::RunFailed)?;
        #[derive(Serialize)]
        struct Told {
            hosts: std::collections::BTreeMap<String, String>,
        }
        let hosts = hosts.into_iter().collect();
        ready.announce(&Told { hosts })?;
        let logging = log.map(|file| tokio::spawn(write_log(site.clone(), file, shutdown.clone())));
        let served = capstan_demoweb::serve(site, listeners, shutdown.clone()).await;
        shutdown.cancel();
        if let Some(logging) = logging {
            logging.await.or_exit(Exit::RunFailed)??;
        }
        served.or_exit(Exit::RunFailed)
    })
}

fn world(path: Option<&Path>) -> Result<World, ExpectedError> {
    let Some(path) = path else {
        return Ok(World::shipped());
    };
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ExpectedError::new(Exit::Configuration, format!("{file}: {error}")))?;
    World::from_toml(&text, &file).or_exit(Exit::Configuration)
}

/// A listener for each host, in order, with the address at which crawlers reach it.
async fn listen(
    args: &args::DemoWeb,
    site: &Site,
) -> Result<(Vec<(String, String)>, Vec<TcpListener>), ExpectedError> {
    let (mut hosts, mut listeners) = (Vec::new(), Vec::new());
    for (ordinal, host) in site.hosts().into_iter().enumerate() {
        let listener = bind(nth(args.listen_from, ordinal)?, "--listen-from").await?;
        let bound = listener.local_addr().or_exit(Exit::Unavailable)?;
        let reached = match &args.advertise {
            Some(name) => format!("{name}:{}", bound.port()),
            None => bound.to_string(),
        };
        hosts.push((host, reached));
        listeners.push(listener);
    }
    Ok((hosts, listeners))
}

/// The address of the n-th host: consecutive ports, or free ones if the first port is 0.
fn nth(mut first: SocketAddr, ordinal: usize) -> Result<SocketAddr, ExpectedError> {
    if first.port() != 0 {
        let port = u16::try_from(ordinal)
            .ok()
            .and_then(|n| first.port().checked_add(n));
        let port = port.ok_or_else(|| {
            let line = format!("--listen-from {first}: no port is left for every host");
            ExpectedError::new(Exit::Usage, line)
        })?;
        first.set_port(port);
    }
    Ok(first)
}

/// `{ "a.test" = "127.0.0.1:8001", ... }`
fn inline_table(hosts: &[(String, String)]) -> String {
    let entries = hosts
        .iter()
        .map(|(name, at)| format!("\"{name}\" = \"{at}\""));
    format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
}

/// The inputs that determine the annotated sets.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    world: String,
    seed: u64,
}

/// Writes the sets, each atomically. Sets of the same web are kept.
fn lay_out(site: &Site, folder: &Path) -> Result<(), ExpectedError> {
    let marker = Marker {
        world: Digest::of(site.world().to_toml().as_bytes()).to_string(),
        seed: site.seed(),
    };
    claim(folder, &marker)?;
    let missing = SETS.iter().filter(|set| !folder.join(set).exists());
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    let partial = folder.join("annotations.partial");
    let fail = |error: std::io::Error| {
        let line = format!("--annotations {}: {error}", folder.display());
        ExpectedError::new(Exit::RunFailed, line)
    };
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(fail)?;
    }
    site.write_annotations(&partial).or_exit(Exit::RunFailed)?;
    for set in missing {
        std::fs::rename(partial.join(set), folder.join(set)).map_err(fail)?;
    }
    std::fs::remove_dir_all(&partial).map_err(fail)
}

/// Marks the folder as one of this web, or checks the mark.
fn claim(folder: &Path, marker: &Marker) -> Result<(), ExpectedError> {
    let shown = folder.display();
    let usage = |text: String| ExpectedError::new(Exit::Usage, text);
    std::fs::create_dir_all(folder)
        .map_err(|error| usage(format!("--annotations {shown}: {error}")))?;
    let path = folder.join(MARKER);
    if path.exists() {
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|error| usage(format!("{}: {error}", path.display())))?;
        let found: Option<Marker> = serde_json::from_str(&text).ok();
        return match found.as_ref() == Some(marker) {
            true => Ok(()),
            false => Err(usage(format!(
                "--annotations {shown}: holds the sets of another world or seed; name another folder"
            ))),
        };
    }
    if let Some(set) = SETS.iter().find(|set| folder.join(set).exists()) {
        return Err(usage(format!(
            "--annotations {shown}: holds something else ({set}); name another folder"
        )));
    }
    write_whole(
        &path,
        &serde_json::to_vec_pretty(marker).expect("plain data"),
    )
}

fn open_log(path: &Path) -> Result<std::fs::File, ExpectedError> {
    std::fs::File::create(path).map_err(|error| {
        ExpectedError::new(Exit::Usage, format!("--log {}: {error}", path.display()))
    })
}

/// Appends requests to the log file, the last ones after the shutdown.
async fn write_log(
    site: Arc<Site>,
    file: std::fs::File,
    shutdown: CancellationToken,
) -> Result<(), ExpectedError> {
    let mut file = std::io::BufWriter::new(file);
    let mut written = 0;
    loop {
        let last = shutdown.is_cancelled();
        for entry in site.log_from(written) {
            serde_json::to_writer(&mut file, &entry).or_exit(Exit::RunFailed)?;
            file.write_all(b"\n").or_exit(Exit::RunFailed)?;
            written += 1;
        }
        file.flush().or_exit(Exit::RunFailed)?;
        if last {
            return Ok(());
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(FLUSH) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(seed: u64) -> Marker {
        Marker {
            world: "w".into(),
            seed,
        }
    }

    #[test]
    fn hosts_take_ports_in_their_order_or_free_ones() {
        let first: SocketAddr = "127.0.0.1:8001".parse().unwrap();
        assert_eq!(nth(first, 2).unwrap().port(), 8003);
        assert_eq!(nth("127.0.0.1:0".parse().unwrap(), 2).unwrap().port(), 0);
        let error = nth("127.0.0.1:65535".parse().unwrap(), 1).unwrap_err();
        assert!(error.to_string().contains("no port is left"), "{error}");
    }

    #[test]
    fn the_table_of_hosts_is_what_the_configuration_reads() {
        let hosts = [("a.test".to_owned(), "127.0.0.1:8001".to_owned())];
        let text = format!("[crawl]\nhosts = {}\n", inline_table(&hosts));
        let config: capstan_runtime::Config = toml::from_str(&text).unwrap();
        assert_eq!(config.crawl.hosts["a.test"], "127.0.0.1:8001");
    }

    #[test]
    fn a_folder_of_sets_belongs_to_one_web() {
        let temp = tempfile::tempdir().unwrap();
        claim(temp.path(), &marker(1)).unwrap();
        claim(temp.path(), &marker(1)).unwrap();
        let error = claim(temp.path(), &marker(2)).unwrap_err().to_string();
        assert!(error.contains("another world or seed"), "{error}");
        let strange = tempfile::tempdir().unwrap();
        std::fs::create_dir(strange.path().join("human")).unwrap();
        let error = claim(strange.path(), &marker(1)).unwrap_err().to_string();
        assert!(error.contains("human"), "{error}");
        assert!(!strange.path().join(MARKER).exists());
    }
}
