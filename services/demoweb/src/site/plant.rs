//! Pictures that a crawler must reject or survive, planted among the pairs.

use std::sync::Arc;

use super::Fate;
use super::answer::{Answer, Damage, jpeg_bomb, png_bomb};
use super::markup::{Entry, Slot};
use super::pages::Builder;

/// X-Robots-Tag headers that opt out for a crawler of this name, in different notations.
fn opt_out_headers(crawler: &str) -> Vec<Vec<String>> {
    let one = |tag: String| vec![tag];
    vec![
        one("noai".into()),
        one("noimageai".into()),
        one("noindex".into()),
        one("noimageindex".into()),
        one("none".into()),
        one("noarchive, NoAI".into()),
        one(format!("{crawler}: noai")),
        one(format!("{crawler} : noai")),
        one("noai, unavailable_after: 25 Jun 2027 15:00:00 PST".into()),
        one("unavailable_after: 25 Jun 2027 15:00:00 PST, noimageai".into()),
        vec!["noarchive".into(), "noai".into()],
        one(format!("googlebot: nofollow, {crawler}: noimageai")),
    ]
}

/// Tags that do not opt out.
pub(super) const HARMLESS: [&str; 4] = [
    "noarchive",
    "all",
    "index, follow",
    "max-image-preview:large, notranslate",
];

/// Meta tags and headers of pages that opt out.
const PAGE_REFUSALS: [(&str, Option<&str>); 6] = [
    ("<meta name=\"robots\" content=\"noai\">", None),
    (
        "<META NAME=\"Robots\" CONTENT=\"NoArchive, NoImageAI\">",
        None,
    ),
    ("<meta name=\"robots\" content=\"none\">", None),
    ("<meta name='robots' content='noindex,nofollow'>", None),
    ("", Some("noimageai")),
    (
        "",
        Some("noarchive, noai, unavailable_after: 25 Jun 2027 15:00:00 PST"),
    ),
];

/// Pictures on a page that opts out.
const PER_REFUSING_PAGE: usize = 4;

impl Builder<'_> {
    /// Plants all pictures that are rejected.
    pub(super) fn plant(&mut self) {
        let planted = self.world.planted.clone();
        (0..planted.robots).for_each(|n| self.plant_robots(n));
        self.plant_opt_outs(planted.opt_out);
        for n in 0..planted.http_status {
            let status = [404, 404, 410, 404, 403, 404, 404, 410, 404, 500][n % 10];
            self.plant_answer("http_status", n, "gone", Answer::Status(status));
        }
        (0..planted.redirects).for_each(|n| self.plant_redirect(n));
        (0..planted.address).for_each(|n| self.plant_address(n));
        for n in 0..planted.timeout {
            self.plant_at("slow", &format!("/hang/{n}.png"), "timeout", Answer::Hang);
        }
        for n in 0..planted.network {
            let picture = self.extra_picture();
            self.plant_at(
                "slow",
                &format!("/cut/{n}.png"),
                "network",
                Answer::Cut(picture),
            );
        }
        for n in 0..planted.bytes {
            let (bytes, announced) = (planted.too_many_bytes, n % 2 == 0);
            self.plant_answer("bytes", n, "scan", Answer::Endless { bytes, announced });
        }
        (0..planted.not_image).for_each(|n| self.plant_not_image(n));
        for n in 0..planted.decode {
            let damage = [Damage::Truncated, Damage::Corrupt, Damage::HeaderOnly][n % 3];
            let picture = self.extra_picture();
            self.plant_answer("decode", n, "damaged", Answer::Damaged { picture, damage });
        }
        for n in 0..planted.pixels {
            let picture = self.extra_picture();
            let (content_type, bytes) = match n % 2 {
                0 => ("image/png", png_bomb()),
                _ => ("image/jpeg", jpeg_bomb(&picture, self.seed)),
            };
            self.plant_answer(
                "pixels",
                n,
                "poster",
                Answer::Bytes {
                    content_type,
                    bytes: bytes.into(),
                },
            );
        }
        for n in 0..planted.too_small {
            let mut picture = self.extra_picture();
            picture.size_px = [1, 2, 8, 16][n % 4];
            self.plant_answer(
                "too_small",
                n,
                "pixel",
                Answer::Picture {
                    picture,
                    tags: Vec::new(),
                },
            );
        }
        (0..planted.text_bytes).for_each(|n| self.plant_long_text(n));
        for n in 0..planted.url {
            let path = format!("/img/{n}-{}.png", "long-".repeat(420));
            let url = self.url(&self.bulk(n), &path);
            self.list_reject(url, "url", n);
        }
    }

    /// Plants a picture on one of the bulk hosts.
    fn plant_answer(&mut self, code: &'static str, n: usize, name: &str, answer: Answer) {
        let host = self.bulk(n);
        self.plant_at(&host, &format!("/img/{name}-{n}.png"), code, answer);
    }

    fn plant_at(&mut self, host: &str, path: &str, code: &'static str, answer: Answer) {
        let url = self.put(host, path, answer);
        let page = self.entries_so_far();
        self.list_reject(url, code, page);
    }

    /// Lists a picture that is rejected on a listing page.
    fn list_reject(&mut self, url: String, code: &'static str, n: usize) {
        let text = self.extra_text();
        let entry = Entry::plain(url, vec![(Slot::Alt, text)], Fate::Reject(code));
        self.list(n, entry);
    }

    fn plant_robots(&mut self, n: usize) {
        let picture = self.extra_picture();
        let first_page_host = self.world.hosts.pages[0].clone();
        let pictures_host = self.world.hosts.pictures.clone();
        let (host, path) = match n % 5 {
            0 => (first_page_host, format!("/private/{n}.png")),
            1 => (pictures_host.clone(), format!("/7/raw/{n}.png")),
            2 => ("closed".to_owned(), format!("/img/{n}.png")),
            3 => ("down".to_owned(), format!("/img/{n}.png")),
            _ => (pictures_host, format!("/members/{n}.png")),
        };
        self.plant_at(
            &host,
            &path,
            "robots",
            Answer::Picture {
                picture,
                tags: Vec::new(),
            },
        );
    }

    /// Half of the pictures opt out with their own header, half are on pages that opt out.
    fn plant_opt_outs(&mut self, count: usize) {
        let refusals = opt_out_headers(&self.world.hosts.crawler);
        let alone = count.div_ceil(2);
        for n in 0..alone {
            let picture = self.extra_picture();
            let tags = refusals[n % refusals.len()].clone();
            let host = self.bulk(n);
            let path = format!("/img/mine-{n}.png");
            let url = self.url(&host, &path);
            self.site.opted_out.insert(url);
            self.plant_at(&host, &path, "opt_out", Answer::Picture { picture, tags });
        }
        let rest: Vec<usize> = (alone..count).collect();
        for (page, items) in rest.chunks(PER_REFUSING_PAGE).enumerate() {
            let (meta, header) = PAGE_REFUSALS[page % PAGE_REFUSALS.len()];
            let entries = items.iter().map(|n| self.opted_out_page(*n)).collect();
            let host = self.world.hosts.pages[page % self.world.hosts.pages.len()].clone();
            let tags = header.iter().map(|tag| (*tag).to_owned()).collect();
            self.special_page(&host, &format!("/artists/{page}.html"), meta, tags, entries);
        }
    }

    fn opted_out_page(&mut self, n: usize) -> Entry {
        let picture = self.extra_picture();
        let answer = Answer::Picture {
            picture,
            tags: Vec::new(),
        };
        let url = self.put(&self.bulk(n), &format!("/img/artist-{n}.png"), answer);
        self.site.opted_out_by_page.insert(url.clone());
        let text = self.extra_text();
        Entry::plain(url, vec![(Slot::Alt, text)], Fate::Reject("opt_out"))
    }

    /// Plants loops of two, chains of twelve and redirects without a target.
    fn plant_redirect(&mut self, n: usize) {
        let host = self.bulk(n);
        let to = |path: String| Answer::Redirect {
            status: 302,
            location: Some(path),
        };
        let start = format!("/go/{n}.png");
        match n % 3 {
            0 => {
                self.put(&host, &format!("/go/{n}-back.png"), to(start.clone()));
                self.plant_at(&host, &start, "redirects", to(format!("/go/{n}-back.png")));
            }
            1 => {
                for hop in 1..12 {
                    let answer = to(format!("/go/{n}-{}.png", hop + 1));
                    self.put(&host, &format!("/go/{n}-{hop}.png"), answer);
                }
                let picture = self.extra_picture();
                let end = Answer::Picture {
                    picture,
                    tags: Vec::new(),
                };
                self.put(&host, &format!("/go/{n}-12.png"), end);
                self.plant_at(&host, &start, "redirects", to(format!("/go/{n}-1.png")));
            }
            _ => {
                let nowhere = Answer::Redirect {
                    status: 302,
                    location: None,
                };
                self.plant_at(&host, &start, "redirects", nowhere);
            }
        }
    }

    /// Plants addresses that no crawler may contact, half of them behind a redirect.
    fn plant_address(&mut self, n: usize) {
        const ADDRESSES: [&str; 8] = [
            "10.0.0.7",
            "192.168.1.20",
            "169.254.169.254",
            "100.64.0.9",
            "127.0.0.1",
            "[::1]",
            "172.16.5.4",
            "0.0.0.0",
        ];
        let target = format!("http://{}/img/{n}.png", ADDRESSES[n % ADDRESSES.len()]);
        if n % 4 == 3 {
            let answer = Answer::Redirect {
                status: 302,
                location: Some(target),
            };
            self.plant_answer("address", n, "inside", answer);
        } else {
            let page = self.entries_so_far();
            self.list_reject(target, "address", page);
        }
    }

    fn plant_not_image(&mut self, n: usize) {
        let html = "<!doctype html><title>sorry</title><p>This picture has moved.</p>";
        let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"64\" height=\"64\"><circle r=\"30\"/></svg>";
        let (content_type, text) = match n % 4 {
            0 => ("text/html", html),
            1 => ("image/png", html),
            2 => ("image/svg+xml", svg),
            _ => ("application/json", "{\"error\": \"no such picture\"}"),
        };
        let bytes: Arc<[u8]> = text.as_bytes().into();
        self.plant_answer(
            "not_image",
            n,
            "other",
            Answer::Bytes {
                content_type,
                bytes,
            },
        );
    }

    /// Plants a long text on a separate page, which is as long as the text.
    fn plant_long_text(&mut self, n: usize) {
        let planted = &self.world.planted;
        let bytes = if n == 0 {
            planted.longest_text_bytes
        } else {
            planted.long_text_bytes
        };
        let text = self.extra_text();
        let long = format!("{text} ").repeat(bytes.div_ceil(text.len() + 1));
        let picture = self.extra_picture();
        let answer = Answer::Picture {
            picture,
            tags: Vec::new(),
        };
        let url = self.put(&self.bulk(n), &format!("/img/essay-{n}.png"), answer);
        let entry = Entry::plain(url, vec![(Slot::Alt, long)], Fate::Reject("text_bytes"));
        let host = self.world.hosts.pages[n % self.world.hosts.pages.len()].clone();
        self.special_page(
            &host,
            &format!("/essays/{n}.html"),
            "",
            Vec::new(),
            vec![entry],
        );
    }
}
