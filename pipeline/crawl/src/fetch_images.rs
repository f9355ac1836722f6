//! Fetches the pictures of a shard.

use capstan_plan::id::PairId;
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{ImageLink, Pair, Reject, Text};
use capstan_plan::stage::Crawl;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use crate::canonical_url::canonical;
use crate::fetch_pages::WINDOW;
use crate::frontier::in_fetching_order;
use crate::net::{Answer, Fetcher, Want};
use crate::normalize::{Normalizer, Picture};
use crate::opt_out::Signals;
use crate::reject::RejectReason;
use crate::{Control, Error, Net, POLICY_VERSION};

/// Fetches pictures. Every row of `images` becomes a pair in `pairs` or a reject.
///
/// Rows are processed in the order of [`crate::plan_images`]; pairs and rejects leave in this
/// order, whatever the timing and concurrency. A picture on several pages is fetched once.
/// Before it returns, the task waits until the interval of every host has passed. Where a
/// redirect leads to a host that another task owns, the two tasks pace it independently.
///
/// - `pairs`: must be bounded; a full channel delays the requests.
///
/// # Errors
/// [`Error::Cancelled`], also where the receiver of `pairs` is dropped; [`Error::Thread`].
/// A failure of a single picture is a reject.
pub async fn fetch_images(
    config: &Crawl,
    net: &Net,
    images: Vec<ImageLink>,
    control: &Control,
    pairs: mpsc::Sender<Pair>,
) -> Result<Vec<Reject>, Error> {
    let work = async {
        let fetcher = Fetcher::new(net, config);
        let normalizer = Normalizer::new(&config.storing);
        let total = images.len() as u64;
        let groups = futures::stream::iter(groups(images));
        let fetched = groups.map(|group| fetch(config, &fetcher, &normalizer, control, group));
        let mut fetched = fetched.buffered(config.concurrency * WINDOW);
        let (mut done, mut rejects) = (0, Vec::new());
        while let Some((group, outcome)) = fetched.try_next().await? {
            for link in group {
                match &outcome {
                    Ok(fetched) => {
                        let sent = pairs.send(pair(link, fetched)).await;
                        sent.map_err(|_| Error::Cancelled)?;
                    }
                    Err(reason) => {
                        let (url, page) = (&link.image_url, &link.page_url);
                        rejects.push(reason.clone().into_reject(url, page, true));
                    }
                }
                done += 1;
                control.report(done, total);
            }
        }
        fetcher.leave().await;
        Ok(rejects)
    };
    let outcome = control.cancel.run_until_cancelled(work).await;
    outcome.unwrap_or(Err(Error::Cancelled))
}

/// Groups the rows by picture, in fetching order.
fn groups(mut images: Vec<ImageLink>) -> Vec<Vec<ImageLink>> {
    in_fetching_order(&mut images);
    let mut groups: Vec<Vec<ImageLink>> = Vec::new();
    for link in images {
        match groups.last_mut() {
            Some(group) if group[0].image_url == link.image_url => group.push(link),
            _ => groups.push(vec![link]),
        }
    }
    groups
}

struct Fetched {
    picture: Picture,
    signals: Vec<String>,
    fetched_at_ms: i64,
}

async fn fetch(
    config: &Crawl,
    fetcher: &Fetcher,
    normalizer: &Normalizer,
    control: &Control,
    group: Vec<ImageLink>,
) -> Result<(Vec<ImageLink>, Result<Fetched, RejectReason>), Error> {
    let outcome = fetch_one(config, fetcher, normalizer, control, &group[0].image_url).await?;
    Ok((group, outcome))
}

async fn fetch_one(
    config: &Crawl,
    fetcher: &Fetcher,
    normalizer: &Normalizer,
    control: &Control,
    image_url: &str,
) -> Result<Result<Fetched, RejectReason>, Error> {
    let url = match canonical(None, image_url) {
        Ok(url) => url,
        Err(error) => return Ok(Err(RejectReason::new(RejectCode::Url, error.to_string()))),
    };
    let (headers, body, permit) = match fetcher.get(&url, Want::Image).await {
        Ok(Answer::Full {
            headers,
            body,
            permit,
        }) => (headers, body, permit),
        Ok(Answer::Moved(_)) => unreachable!("`Moved` is an answer for pages only"),
        Err(reason) => return Ok(Err(reason)),
    };
    let fetched_at_ms = control.now_ms();
    let signals = Signals::from_headers(&headers, &config.user_agent);
    if let Some(signal) = signals.refusal() {
        let detail = format!("the picture's answer says {signal}");
        return Ok(Err(RejectReason::new(RejectCode::OptOut, detail)));
    }
    let picture = normalizer.normalize(body).await?;
    drop(permit);
    Ok(picture.map(|picture| Fetched {
        picture,
        signals: signals.all(),
        fetched_at_ms,
    }))
}

fn pair(link: ImageLink, fetched: &Fetched) -> Pair {
    let pair_id = PairId::new(&link.image_url, &link.page_url);
    let picture = &fetched.picture;
    let mut opt_out = link.opt_out;
    opt_out.extend(fetched.signals.iter().cloned());
    opt_out.sort_unstable();
    opt_out.dedup();
    let texts = link.texts.into_iter();
    Pair {
        pair_id,
        image: picture.bytes.clone(),
        width: picture.width,
        height: picture.height,
        original_width: picture.original_width,
        original_height: picture.original_height,
        sha256: picture.sha256,
        phash: picture.phash,
        image_url: link.image_url,
        page_url: link.page_url,
        archive_ref: None,
        fetched_at_ms: fetched.fetched_at_ms,
        opt_out,
        policy_version: POLICY_VERSION,
        licence: link.licence,
        attribution: link.attribution,
        texts: texts
            .map(|(origin, text)| Text::new(&pair_id, origin, text))
            .collect(),
    }
}

/// Settings for tests, with these seeds.
#[cfg(test)]
pub(crate) fn tests_config(seeds: &[&str]) -> Crawl {
    serde_json::from_value(serde_json::json!({
        "dataset": "web",
        "seeds": seeds,
        "snapshot": "test",
    }))
    .unwrap()
}
