//! Pace, robots.txt and opt-outs, read from the server's log; and outcomes that depend on neither
//! timing nor concurrency.

// The lint allows `unwrap` in tests, but not in their shared functions.
#![allow(clippy::unwrap_used)]

mod web;

use std::time::Duration;

use capstan_crawl::{Net, fetch_pages, plan_images, plan_pages};
use capstan_plan::reject::RejectCode;
use capstan_plan::row::{ImageLink, PageLink, Pair, Reject};
use capstan_plan::stage::Crawl;
use web::*;

/// Tolerance for clock and scheduling: the server logs a request a little after the crawler
/// starts it.
const SLACK: Duration = Duration::from_millis(60);

fn gaps(web: &Web, host: &str) -> Vec<Duration> {
    let log = web.log();
    let times: Vec<_> = log
        .iter()
        .filter(|l| l.host == host)
        .map(|l| l.at)
        .collect();
    times.windows(2).map(|two| two[1] - two[0]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_delay_is_kept_within_and_between_tasks() {
    let web = Web::default();
    web.put(
        "slow.test",
        "/robots.txt",
        give(200, &[], b"User-agent: *\nCrawl-delay: 0.4\n"),
    );
    for n in 0..3 {
        web.put("slow.test", &format!("/{n}"), html("<img src=/p.png>"));
    }
    web.put("slow.test", "/p.png", to("/q.png"))
        .put("slow.test", "/q.png", picture(1));
    web.put(
        "slow.test",
        "/busy.png",
        Answer::Then(503, 1, Box::new(picture(2))),
    );
    let config = config();
    let net = Net::new(web.serve().await, &config).unwrap();
    let pages = (0..3)
        .map(|n| page(&format!("http://slow.test/{n}")))
        .collect();
    let fetched = fetch_pages(&config, &net, pages, &control()).await.unwrap();
    assert_eq!(fetched.pages_read, 3);
    // A second task, as another worker would run it.
    let images = ["/p.png", "/busy.png"].map(|path| image(&format!("http://slow.test{path}"), "p"));
    let (pairs, _) = pictures(&config, &net, images.to_vec()).await;
    assert_eq!(pairs.len(), 2);
    let gaps = gaps(&web, "slow.test");
    // Two robots.txt, three pages, the two hops of a redirect, one attempt and the next.
    assert_eq!(gaps.len(), 8);
    assert!(
        gaps.iter()
            .all(|gap| *gap + SLACK >= Duration::from_millis(400)),
        "{gaps:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interval_is_per_host_and_hosts_run_side_by_side() {
    let web = Web::default();
    let mut images = Vec::new();
    for host in ["a.test", "b.test"] {
        for n in 0..4 {
            web.put(host, &format!("/{n}.png"), picture(n));
            images.push(image(&format!("http://{host}/{n}.png"), "p"));
        }
    }
    let config = Crawl {
        host_interval_ms: 200,
        ..config()
    };
    let net = Net::new(web.serve().await, &config).unwrap();
    let (pairs, rejects) = pictures(&config, &net, images).await;
    assert_eq!((pairs.len(), rejects.len()), (8, 0));
    for host in ["a.test", "b.test"] {
        let gaps = gaps(&web, host);
        assert_eq!(gaps.len(), 4);
        assert!(
            gaps.iter()
                .all(|gap| *gap + SLACK >= Duration::from_millis(200)),
            "{gaps:?}"
        );
    }
    let hosts: Vec<String> = web.log().into_iter().map(|logged| logged.host).collect();
    let turns = hosts.windows(2).filter(|two| two[0] != two[1]).count();
    assert!(turns >= 4, "one host after the other: {hosts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_robots_txt_decides() {
    let over_http = |answer: Answer, fetched: bool| async move {
        let web = Web::default();
        web.put("a.test", "/robots.txt", answer)
            .put("a.test", "/x.png", picture(1));
        for hop in 0..9 {
            web.put(
                "b.test",
                &format!("/r{hop}"),
                to(&format!("http://b.test/r{}", hop + 1)),
            );
        }
        web.put(
            "b.test",
            "/rules",
            give(200, &[], b"User-agent: *\nDisallow: /x"),
        );
        web.put(
            "b.test",
            "/robots.txt",
            give(200, &[], b"User-agent: *\nDisallow: /r"),
        );
        let config = config();
        let net = Net::new(web.serve().await, &config).unwrap();
        let images = vec![image("http://a.test/x.png", "p")];
        let (pairs, rejects) = pictures(&config, &net, images).await;
        assert_eq!(pairs.len() == 1, fetched, "{rejects:?}");
        assert!(
            rejects
                .iter()
                .all(|reject| reject.code == RejectCode::Robots)
        );
    };
    let late = Answer::Late(Duration::from_secs(60), Box::new(status(404)));
    let mut long = vec![b'#'; (500 << 10) + 1];
    long.extend_from_slice(b"\nUser-agent: *\nDisallow: /\n");
    for (answer, fetched) in [
        (status(404), true),
        (status(403), true),
        (status(401), true),
        (status(500), false),
        (status(503), false),
        (status(429), false),
        (Answer::Then(503, 1, Box::new(status(404))), true),
        (Answer::Cut, false),
        (late, false),
        // Rules behind a redirect apply to the first host.
        (to("http://b.test/rules"), false),
        // More than five redirects: as if there were no file.
        (to("http://b.test/r1"), true),
        (to("http://127.0.0.1/robots.txt"), false),
        (give(200, &[], &long), true),
        (give(200, &[], b"<html>no rules"), true),
    ] {
        over_http(answer, fetched).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_opt_out_give_no_pictures() {
    let web = Web::default();
    let body = "<a href=/next>n</a><img src=1.png alt=x><img src=2.png>";
    let noted = |value: &str| {
        give(
            200,
            &[("content-type", "text/html"), ("x-robots-tag", value)],
            body.as_bytes(),
        )
    };
    web.put("a.test", "/free", noted("noarchive"));
    web.put(
        "a.test",
        "/header",
        noted("otherbot: noarchive, testbot: noimageai"),
    );
    web.put("a.test", "/other", noted("otherbot: noai"));
    web.put(
        "a.test",
        "/none",
        html(&format!("<meta name=robots content=none>{body}")),
    );
    web.put(
        "a.test",
        "/ours",
        html(&format!("<meta name=testbot content=noai>{body}")),
    );
    web.put(
        "a.test",
        "/long",
        html(&format!(
            "<img src=l.png alt='{}'><img src='http://x:y/'>",
            "x".repeat(1001)
        )),
    );
    let config = config();
    let net = Net::new(web.serve().await, &config).unwrap();
    let pages = ["/free", "/header", "/other", "/none", "/ours", "/long"];
    let links = pages
        .map(|path| page(&format!("http://a.test{path}")))
        .to_vec();
    let fetched = fetch_pages(&config, &net, links, &control()).await.unwrap();
    let of = |path: &str| {
        let url = format!("http://a.test{path}");
        let images = fetched
            .images
            .iter()
            .filter(|image| image.page_url == url)
            .count();
        let rejects = fetched
            .rejects
            .iter()
            .filter(|reject| reject.page_url == url && reject.is_image);
        (
            images,
            rejects.map(|reject| reject.code).collect::<Vec<_>>(),
        )
    };
    assert_eq!(of("/free"), (2, vec![]));
    assert_eq!(of("/other"), (2, vec![]));
    for path in ["/header", "/none", "/ours"] {
        assert_eq!(of(path), (0, vec![RejectCode::OptOut; 2]), "{path}");
    }
    assert_eq!(
        of("/long"),
        (0, vec![RejectCode::TextBytes, RejectCode::Url])
    );
    let free = fetched
        .images
        .iter()
        .find(|image| image.page_url == "http://a.test/free")
        .unwrap();
    assert_eq!(free.opt_out, ["x-robots-tag=noarchive"]);
    assert_eq!(
        fetched.links,
        [PageLink {
            url: "http://a.test/next".into(),
            depth: 1
        }]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_of_many_pages_is_fetched_once() {
    let web = Web::default();
    web.put("a.test", "/x.png", picture(1))
        .put("a.test", "/gone.png", status(404));
    let config = config();
    let net = Net::new(web.serve().await, &config).unwrap();
    let mut images: Vec<ImageLink> = (0..5)
        .map(|n| image("http://a.test/x.png", &format!("p{n}")))
        .collect();
    images.extend((0..5).map(|n| image("http://a.test/gone.png", &format!("p{n}"))));
    let (pairs, rejects) = pictures(&config, &net, images).await;
    assert_eq!((pairs.len(), rejects.len()), (5, 5));
    assert_eq!(web.paths("a.test").len(), 3);
}

/// The results of waves of pages and pictures, without times.
type Crawled = (Vec<Vec<PageLink>>, Vec<Pair>, Vec<Reject>);

async fn crawl(config: &Crawl, net: &Net) -> Crawled {
    let (mut seen, mut links): (Vec<PageLink>, Vec<PageLink>) = Default::default();
    let (mut images, mut rejects, mut waves) = (Vec::new(), Vec::new(), Vec::new());
    for wave in 0.. {
        let shards = plan_pages(config, wave, &seen, &links);
        if shards.is_empty() {
            break;
        }
        links.clear();
        for pages in shards {
            seen.extend(pages.iter().cloned());
            waves.push(pages.clone());
            let fetched = fetch_pages(config, net, pages, &control()).await.unwrap();
            links.extend(fetched.links);
            images.extend(fetched.images);
            rejects.extend(fetched.rejects);
        }
    }
    let mut pairs = Vec::new();
    for shard in plan_images(config, images) {
        let (had, refused) = pictures(config, net, shard).await;
        pairs.extend(had);
        rejects.extend(refused);
    }
    (waves, pairs, rejects)
}

fn small_web() -> Web {
    let web = Web::default();
    let body = |n: u32| {
        let images: String = (0..6)
            .map(|k| {
                format!(
                    "<img src='http://b.test/{}.png' alt='picture {k}'>",
                    (n * 5 + k) % 31
                )
            })
            .collect();
        let links: String = (1..4)
            .map(|k| format!("<a href='/p{}'>x</a>", (n * 3 + k) % 25))
            .collect();
        format!("{images}{links}<a href='http://c.test/'>c</a>")
    };
    web.put(
        "a.test",
        "/",
        html("<a href=/p0>start</a><a href=/moved>m</a><a href=/away>w</a>"),
    );
    web.put("a.test", "/moved", to("/p1"))
        .put("a.test", "/away", to("http://c.test/"));
    web.put("c.test", "/", html("<img src=/c.png title=c>"));
    web.put("c.test", "/c.png", picture(99));
    for n in 0..25 {
        web.put(
            "a.test",
            &format!("/p{n}"),
            if n % 7 == 6 {
                status(404)
            } else {
                html(&body(n))
            },
        );
    }
    for n in 0..31 {
        let answer = match n % 8 {
            5 => status(404),
            6 => html("no picture"),
            7 => Answer::Then(503, 1, Box::new(picture(n))),
            _ => Answer::Late(
                Duration::from_millis(u64::from(n * 37 % 60)),
                Box::new(picture(n)),
            ),
        };
        web.put("b.test", &format!("/{n}.png"), answer);
    }
    web
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_concurrency_nor_timing_changes_the_outcome() {
    let mut outcomes = Vec::new();
    for (concurrency, per_host) in [(1, 1), (3, 2), (32, 8)] {
        let web = small_web();
        let config = Crawl {
            concurrency,
            concurrency_per_host: per_host,
            ..config()
        };
        let net = Net::new(web.serve().await, &config).unwrap();
        outcomes.push(crawl(&config, &net).await);
    }
    let (waves, pairs, rejects) = &outcomes[0];
    assert!(waves.concat().len() > 20 && pairs.len() > 60 && rejects.len() > 20);
    // One row per picture and page, including pages that a redirect leads to.
    let mut keys: Vec<_> = pairs.iter().map(|pair| pair.pair_id).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), pairs.len());
    assert!(pairs.iter().any(|pair| pair.page_url == "http://c.test/"));
    for other in &outcomes[1..] {
        assert!(outcomes[0] == *other);
    }
}
