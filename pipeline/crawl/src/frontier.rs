//! Assigns pages to waves, and pages and pictures to shards. Pure functions: equal links
//! give equal plans, whatever their order.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use capstan_plan::id::Digest;
use capstan_plan::row::{ImageLink, PageLink};
use capstan_plan::stage::Crawl;
use url::Url;

use crate::canonical_url::{authority, canonical};

/// Plans the pages of a wave: the seeds in wave 0, otherwise the pages that the previous
/// wave links to and that no wave has seen.
///
/// Links deeper than `max_depth` are dropped. The rest is ordered by the hash of the URL
/// and cut to the pages that `max_pages` leaves after those already seen. Every host
/// (scheme, name, port) belongs to one of `shards` by hash. Shards without pages are left
/// out. An empty plan ends the crawl.
///
/// - `seen`: the pages of all earlier waves.
/// - `links`: the links of the previous wave; may contain duplicates.
pub fn plan_pages(
    config: &Crawl,
    wave: u32,
    seen: &[PageLink],
    links: &[PageLink],
) -> Vec<Vec<PageLink>> {
    let is_first = wave == 0;
    let seeds = config.seeds.iter().filter(|_| is_first);
    let seeds = seeds.map(|url| (url.as_str(), 0));
    let links = links.iter().filter(|_| !is_first);
    let links = links.map(|link| (link.url.as_str(), link.depth));
    let seen: BTreeSet<&str> = seen.iter().map(|link| link.url.as_str()).collect();

    let mut fresh: BTreeMap<String, (u32, Url)> = BTreeMap::new();
    for (reference, depth) in seeds.chain(links) {
        let url = match canonical(None, reference) {
            Ok(url) => url,
            Err(error) => {
                tracing::warn!(url = reference, %error, "link left out of the frontier");
                continue;
            }
        };
        if depth > config.max_depth || seen.contains(url.as_str()) {
            continue;
        }
        let shallowest = fresh.entry(url.to_string()).or_insert((depth, url));
        shallowest.0 = shallowest.0.min(depth);
    }

    let mut fresh: Vec<(Digest, String, u32, Url)> = fresh
        .into_iter()
        .map(|(text, (depth, url))| (Digest::of(text.as_bytes()), text, depth, url))
        .collect();
    fresh.sort_unstable_by_key(|(hash, ..)| *hash);
    let budget = config.max_pages.saturating_sub(seen.len() as u64);
    fresh.truncate(usize::try_from(budget).unwrap_or(usize::MAX));

    let mut shards = vec![Vec::new(); config.shards.max(1)];
    for (_, text, depth, url) in fresh {
        let host = Digest::of(authority(&url).as_bytes()).prefix_u64();
        let shard = (host % shards.len() as u64) as usize;
        shards[shard].push(PageLink { url: text, depth });
    }
    shards.retain(|shard| !shard.is_empty());
    shards
}

/// Plans the pictures to fetch: one row per (picture, page), with the texts of duplicates
/// merged.
///
/// If there are more than `max_images` rows, those with the smallest hash of picture and
/// page are kept. The pictures of a host stay in one shard. Hosts are assigned, the
/// largest first, to the smallest shard, which balances the shards. Within a shard the
/// rows of a picture are adjacent.
pub fn plan_images(config: &Crawl, links: Vec<ImageLink>) -> Vec<Vec<ImageLink>> {
    let mut rows = joined(links);
    let budget = usize::try_from(config.max_images).unwrap_or(usize::MAX);
    if rows.len() > budget {
        rows.sort_by_cached_key(pair_hash);
        rows.truncate(budget);
    }
    let mut hosts: BTreeMap<String, Vec<ImageLink>> = BTreeMap::new();
    for row in rows {
        // A reference that is not a URL has no host. Any shard rejects it.
        let host = Url::parse(&row.image_url).map(|url| authority(&url));
        hosts.entry(host.unwrap_or_default()).or_default().push(row);
    }
    let mut hosts: Vec<(String, Vec<ImageLink>)> = hosts.into_iter().collect();
    hosts.sort_by_cached_key(|(host, rows)| {
        (std::cmp::Reverse(rows.len()), Digest::of(host.as_bytes()))
    });
    let mut shards: Vec<Vec<ImageLink>> = vec![Vec::new(); config.shards.max(1)];
    for (_, rows) in hosts {
        let least = shards.iter_mut().min_by_key(|shard| shard.len());
        least.expect("at least one shard").extend(rows);
    }
    shards.retain(|shard| !shard.is_empty());
    shards.iter_mut().for_each(|shard| in_fetching_order(shard));
    shards
}

/// Sorts by the hash of the picture's URL, then by page. This interleaves hosts, so that a slow
/// one does not delay the others, and puts the pages of a picture together, so that it is
/// fetched once.
pub(crate) fn in_fetching_order(rows: &mut [ImageLink]) {
    rows.sort_by_cached_key(|row| {
        (
            Digest::of(row.image_url.as_bytes()),
            row.image_url.clone(),
            row.page_url.clone(),
        )
    });
}

fn pair_hash(row: &ImageLink) -> Digest {
    Digest::of_parts([row.image_url.as_bytes(), row.page_url.as_bytes()])
}

fn joined(mut links: Vec<ImageLink>) -> Vec<ImageLink> {
    // Sorted by all fields, so that the result does not depend on the order of duplicates.
    links.sort_by(|a, b| {
        let key = |link: &ImageLink| (link.image_url.clone(), link.page_url.clone());
        key(a).cmp(&key(b)).then_with(|| {
            (&a.texts, &a.opt_out, &a.licence, &a.attribution, &a.raw_url).cmp(&(
                &b.texts,
                &b.opt_out,
                &b.licence,
                &b.attribution,
                &b.raw_url,
            ))
        })
    });
    let mut rows: BTreeMap<(String, String), ImageLink> = BTreeMap::new();
    for link in links {
        match rows.entry((link.image_url.clone(), link.page_url.clone())) {
            Entry::Vacant(free) => {
                free.insert(link);
            }
            Entry::Occupied(mut row) => join(row.get_mut(), link),
        }
    }
    rows.into_values().collect()
}

fn join(row: &mut ImageLink, other: ImageLink) {
    for (origin, text) in other.texts {
        if !row.texts.iter().any(|(_, known)| *known == text) {
            row.texts.push((origin, text));
        }
    }
    row.opt_out.extend(other.opt_out);
    row.opt_out.sort_unstable();
    row.opt_out.dedup();
    row.licence = row.licence.take().or(other.licence);
    row.attribution = row.attribution.take().or(other.attribution);
}

#[cfg(test)]
mod tests {
    use capstan_plan::row::Origin;
    use proptest::prelude::*;

    use super::*;

    fn config() -> Crawl {
        crate::fetch_images::tests_config(&["http://a.test/#x", "http://a.test/", "mailto:x"])
    }

    fn page(url: &str, depth: u32) -> PageLink {
        let url = url.to_owned();
        PageLink { url, depth }
    }

    fn image(image: &str, page: &str, text: &str) -> ImageLink {
        ImageLink {
            image_url: image.into(),
            raw_url: image.into(),
            page_url: page.into(),
            texts: vec![(Origin::Alt, text.into())],
            opt_out: Vec::new(),
            licence: None,
            attribution: None,
        }
    }

    #[test]
    fn wave_0_is_the_seeds_each_once() {
        let plan = plan_pages(&config(), 0, &[], &[page("http://b.test/", 1)]);
        assert_eq!(plan, [[page("http://a.test/", 0)]]);
    }

    #[test]
    fn later_waves_are_what_is_new_and_within_the_budgets() {
        let config = Crawl {
            max_depth: 2,
            max_pages: 3,
            ..config()
        };
        let seen = [page("http://a.test/", 0)];
        let links = [
            page("http://a.test/", 1),
            page("http://a.test/1", 2),
            page("http://a.test/1#x", 1),
            page("http://a.test/deep", 3),
        ];
        assert_eq!(
            plan_pages(&config, 1, &seen, &links),
            [[page("http://a.test/1", 1)]]
        );
        let many: Vec<PageLink> = (0..9)
            .map(|n| page(&format!("http://a.test/{n}"), 1))
            .collect();
        let plan = plan_pages(&config, 1, &seen, &many);
        assert_eq!(plan.iter().flatten().count(), 2);
        assert!(plan_pages(&config, 2, &many, &[page("http://a.test/x", 1)]).is_empty());
        assert!(plan_pages(&config, 1, &seen, &seen).is_empty());
    }

    #[test]
    fn pictures_are_joined_balanced_and_kept_by_host() {
        let config = Crawl {
            shards: 3,
            ..config()
        };
        let mut links: Vec<ImageLink> = Vec::new();
        for (host, count) in [("a", 50), ("b", 30), ("c", 20), ("d", 5)] {
            links.extend((0..count).map(|n| {
                image(
                    &format!("http://{host}.test/{n}.png"),
                    "http://p.test/",
                    "x",
                )
            }));
        }
        links.push(image("http://a.test/0.png", "http://p.test/", "y"));
        let plan = plan_images(&config, links);
        assert_eq!(plan.iter().map(Vec::len).collect::<Vec<_>>(), [50, 30, 25]);
        let first = plan[0]
            .iter()
            .find(|row| row.image_url.ends_with("/0.png"))
            .unwrap();
        assert_eq!(first.texts.len(), 2);
        let few = Crawl {
            max_images: 7,
            ..config
        };
        assert_eq!(plan_images(&few, plan.concat()).concat().len(), 7);
    }

    proptest! {
        #[test]
        fn plans_do_not_depend_on_the_order_of_links(
            numbers in prop::collection::vec((0u8..20, 0u8..5, 0u8..3, 0u8..4), 0..60),
            turn in 0usize..60,
            shards in 1usize..6,
            max in 1u64..40,
        ) {
            let config = Crawl { shards, max_pages: max, max_images: max, ..config() };
            let pages: Vec<PageLink> = numbers
                .iter()
                .map(|(n, host, depth, _)| page(&format!("http://{host}.test/{n}"), u32::from(*depth)))
                .collect();
            let images: Vec<ImageLink> = numbers
                .iter()
                .map(|(n, host, from, text)| {
                    image(&format!("http://{host}.test/{n}"), &format!("http://p.test/{from}"), &text.to_string())
                })
                .collect();
            let (mut turned_pages, mut turned_images) = (pages.clone(), images.clone());
            if !numbers.is_empty() {
                turned_pages.rotate_left(turn % numbers.len());
                turned_images.rotate_left(turn % numbers.len());
                turned_images.reverse();
            }
            let plan = plan_pages(&config, 1, &[], &pages);
            prop_assert_eq!(&plan, &plan_pages(&config, 1, &[], &turned_pages));
            let images_plan = plan_images(&config, images);
            prop_assert_eq!(&images_plan, &plan_images(&config, turned_images));
            prop_assert!(images_plan.concat().len() as u64 <= max);
            let hosts = |urls: Vec<&String>| -> BTreeSet<String> {
                urls.into_iter().map(|url| authority(&Url::parse(url).unwrap())).collect()
            };
            let by_shard: Vec<_> = plan.iter().map(|s| hosts(s.iter().map(|l| &l.url).collect())).collect();
            let distinct: BTreeSet<_> = by_shard.iter().flatten().collect();
            prop_assert_eq!(distinct.len(), by_shard.iter().map(BTreeSet::len).sum::<usize>());
        }
    }
}
