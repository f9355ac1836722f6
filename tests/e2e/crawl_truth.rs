//! Compares a crawl with what the demo web planted, by reject code, and with the web's log.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use capstan_crawl::{Control, Net, NetConfig, PagesFetched};
use capstan_demoweb::{Site, World};
use capstan_plan::Pipeline;
use capstan_plan::row::{ImageLink, PageLink, Reject};
use capstan_plan::stage::{Crawl, Kind};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::harness::root;

/// Serves a site on loopback and returns the crawler's map of names.
async fn serve(site: &Arc<Site>, stop: &CancellationToken) -> NetConfig {
    let mut hosts = BTreeMap::<String, SocketAddr>::new();
    let mut listeners = Vec::new();
    for host in site.hosts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        hosts.insert(host, listener.local_addr().unwrap());
        listeners.push(listener);
    }
    tokio::spawn(capstan_demoweb::serve(
        site.clone(),
        listeners,
        stop.child_token(),
    ));
    NetConfig {
        hosts,
        ..NetConfig::default()
    }
}

fn control() -> Control {
    Control::new(CancellationToken::new(), |_| {}, || 0)
}

/// Fetches every wave of pages; returns the pictures found and the rejects.
async fn pages(config: &Crawl, net: &Net) -> (Vec<ImageLink>, Vec<Reject>) {
    let (mut seen, mut links) = (Vec::<PageLink>::new(), Vec::<PageLink>::new());
    let (mut images, mut rejects) = (Vec::new(), Vec::new());
    for wave in 0.. {
        let shards = capstan_crawl::plan_pages(config, wave, &seen, &links);
        if shards.is_empty() {
            break;
        }
        links = Vec::new();
        for shard in shards {
            seen.extend(shard.iter().cloned());
            let fetched: PagesFetched = capstan_crawl::fetch_pages(config, net, shard, &control())
                .await
                .unwrap();
            links.extend(fetched.links);
            images.extend(fetched.images);
            rejects.extend(fetched.rejects);
        }
    }
    (images, rejects)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_found_and_rejected_are_those_that_the_web_planted() {
    let small = root().join("tests/small");
    let world = std::fs::read_to_string(small.join("world.toml")).unwrap();
    let site = Arc::new(Site::build(
        &World::from_toml(&world, "world.toml").unwrap(),
        7,
    ));
    let stop = CancellationToken::new();
    let net_config = serve(&site, &stop).await;
    let text = std::fs::read_to_string(small.join("pipeline.toml")).unwrap();
    let pipeline = Pipeline::from_toml(&text, "pipeline.toml").unwrap();
    let crawl = pipeline.stages.iter().find_map(|stage| match &stage.kind {
        Kind::Crawl(crawl) => Some(crawl.clone()),
        _ => None,
    });
    let config = crawl.expect("the pipeline has a crawl stage");
    assert_eq!(
        config.seeds,
        site.seeds(),
        "seeds of the pipeline and of the world differ"
    );

    let net = Net::new(net_config, &config).unwrap();
    let (images, mut rejects) = pages(&config, &net).await;
    let mut fetched = 0;
    for shard in capstan_crawl::plan_images(&config, images) {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(16);
        let counting = tokio::spawn(async move {
            let mut count = 0usize;
            while receiver.recv().await.is_some() {
                count += 1;
            }
            count
        });
        let refused = capstan_crawl::fetch_images(&config, &net, shard, &control(), sender)
            .await
            .unwrap();
        rejects.extend(refused);
        fetched += counting.await.unwrap();
    }

    let expected = site.expected();
    let mut by_code = BTreeMap::<String, usize>::new();
    for reject in rejects.iter().filter(|reject| reject.is_image) {
        *by_code.entry(reject.code.as_str().to_owned()).or_default() += 1;
    }
    assert_eq!(by_code, expected.rejected, "rejected pictures by code");
    assert_eq!(fetched + by_code.values().sum::<usize>(), expected.found);
    assert_eq!(
        site.violations(&site.log(), &config.user_agent),
        Vec::<String>::new()
    );
    stop.cancel();
}
