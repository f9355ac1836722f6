//! The layout of the web: hosts, the place of every picture, and the pages that link to them.
//!
//! ```text
//! /  ─►  /s0/  ─►  /s0/p0.html ─► /s0/p1.html ...      listing pages of a section
//!    └►  /copies/, /artists/, /essays/                 duplicates, opt-outs, long texts
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, Picture};
use super::markup::{Entry, PageHtml};
use super::pairs::pairs;
use super::{Fate, Found, Host, Site};
use crate::draw::Draw;
use crate::judge::Judge;
use crate::log::RequestLog;
use crate::robots::Robots;
use crate::scene::draw_scene;
use crate::wording::Writer;
use crate::world::World;

/// Pages of the host with a Crawl-delay, its root included.
const QUIET_PAGES: usize = 10;

/// First item of pictures that are not pairs, so that no draws are shared.
const FIRST_EXTRA_ITEM: u64 = 1 << 32;

/// A site under construction.
pub(super) struct Builder<'w> {
    pub(super) world: &'w World,
    pub(super) seed: u64,
    pub(super) site: Site,
    /// Pictures to list, by page host.
    pub(super) lists: Vec<Vec<Entry>>,
    /// Links of the root, by page host.
    roots: Vec<Vec<(String, String)>>,
    pub(super) quiet: Vec<Entry>,
    extra_items: u64,
}

/// Builds the web.
pub(super) fn build(world: &World, seed: u64) -> Site {
    let mut builder = Builder::new(world, seed);
    let pairs = pairs(world, seed);
    builder.place_pairs(&pairs);
    builder.place_without_text();
    builder.plant();
    builder.lay_out_lists();
    builder.bad_pages();
    builder.roots();
    builder.quiet_pages();
    builder.site
}

impl<'w> Builder<'w> {
    fn new(world: &'w World, seed: u64) -> Self {
        let pages = world.hosts.pages.len();
        let site = Site {
            world: world.clone(),
            seed,
            hosts: BTreeMap::new(),
            seeds: Vec::new(),
            found: Vec::new(),
            rejected_pages: BTreeMap::new(),
            scenes: HashMap::new(),
            kinds: HashMap::new(),
            opted_out: HashSet::new(),
            opted_out_by_page: HashSet::new(),
            judge: Judge::new(world),
            log: RequestLog::new(),
        };
        let mut builder = Self {
            world,
            seed,
            site,
            lists: vec![Vec::new(); pages],
            roots: vec![Vec::new(); pages],
            quiet: Vec::new(),
            extra_items: 0,
        };
        builder.open_hosts();
        builder
    }

    fn open_hosts(&mut self) {
        let crawler = &self.world.hosts.crawler;
        let closed_to_others = format!(
            "User-agent: {crawler}\nDisallow: /*/raw/*.png$\n\nUser-agent: *\nDisallow: /\n\n\
             # Groups of one crawler are one group.\nuser-agent: {crawler} # again\nDISALLOW : /members/\n"
        );
        let pictures = Robots::file(
            closed_to_others,
            &[(false, "/*/raw/*.png$"), (false, "/members/")],
        );
        let first = Robots::file(
            "User-agent: *\nDisallow: /private/\nAllow: /private/open/\n".to_owned(),
            &[(false, "/private/"), (true, "/private/open/")],
        );
        let closed = Robots::file("User-agent: *\nDisallow: /\n".to_owned(), &[(false, "/")]);
        let quiet = Robots {
            delay: Some(Duration::from_secs(1)),
            ..Robots::file("User-agent: *\nCrawl-delay: 1\nDisallow:\n".to_owned(), &[])
        };
        let mut hosts = vec![
            (self.world.hosts.pictures.clone(), pictures),
            ("closed".to_owned(), closed),
            ("down".to_owned(), Robots::unavailable()),
            ("slow".to_owned(), Robots::missing()),
            ("quiet".to_owned(), quiet),
        ];
        for (index, name) in self.world.hosts.pages.iter().enumerate() {
            hosts.push((
                name.clone(),
                if index == 0 {
                    first.clone()
                } else {
                    Robots::missing()
                },
            ));
        }
        for (name, robots) in hosts {
            let host = Host {
                robots,
                answers: HashMap::new(),
            };
            self.site.hosts.insert(self.name(&name), host);
        }
    }

    fn name(&self, host: &str) -> String {
        format!("{host}.{}", self.world.hosts.domain)
    }

    pub(super) fn url(&self, host: &str, path: &str) -> String {
        format!("http://{}{path}", self.name(host))
    }

    /// One of the bulk hosts, in rotation.
    pub(super) fn bulk(&self, n: usize) -> String {
        let hosts = &self.world.hosts;
        let at = n % (hosts.pages.len() + 1);
        hosts.pages.get(at).unwrap_or(&hosts.pictures).clone()
    }

    /// Plans an answer. Returns its URL.
    pub(super) fn put(&mut self, host: &str, path: &str, answer: Answer) -> String {
        let url = self.url(host, path);
        if let Answer::Picture { picture, .. } | Answer::Flaky(picture) | Answer::Cut(picture) =
            &answer
        {
            self.site.scenes.insert(url.clone(), picture.scene.clone());
        }
        let name = self.name(host);
        let host = self.site.hosts.get_mut(&name).expect("the host was opened");
        let earlier = host.answers.insert(path.to_owned(), answer);
        assert!(earlier.is_none(), "{url} is planned twice");
        url
    }

    /// A picture that is not a pair.
    pub(super) fn extra_picture(&mut self) -> Picture {
        let item = FIRST_EXTRA_ITEM + self.extra_items;
        self.extra_items += 1;
        let scene = draw_scene(self.world, &mut Draw::new(self.seed, "extra scene", item));
        Picture {
            scene: Arc::new(scene),
            item,
            size_px: self.world.scenes.size_px,
            is_jpeg: false,
        }
    }

    /// A text for a picture that never becomes a row.
    pub(super) fn extra_text(&mut self) -> String {
        let item = FIRST_EXTRA_ITEM + self.extra_items;
        self.extra_items += 1;
        let draw = &mut Draw::new(self.seed, "extra text", item);
        let scene = draw_scene(self.world, draw);
        Writer::new(self.world).honest(&scene, draw)
    }

    pub(super) fn entries_so_far(&self) -> usize {
        self.lists.iter().map(Vec::len).sum()
    }

    /// Lists a picture on a listing page of one of the page hosts.
    pub(super) fn list(&mut self, n: usize, entry: Entry) {
        let at = n % self.lists.len();
        self.lists[at].push(entry);
    }

    /// Adds a page that the root of its host links to.
    pub(super) fn special_page(
        &mut self,
        host: &str,
        path: &str,
        head: &str,
        tags: Vec<String>,
        entries: Vec<Entry>,
    ) {
        let at = self
            .world
            .hosts
            .pages
            .iter()
            .position(|name| name == host)
            .unwrap_or(0);
        let mut page = PageHtml::new(format!("{host} {path}"));
        head.clone_into(&mut page.head);
        self.page(at, path, page, tags, &entries);
        self.roots[at].push((path.to_owned(), format!("page {path}")));
    }

    /// Adds a page one level below the root with its pictures, and records them as found.
    fn page(
        &mut self,
        at: usize,
        path: &str,
        mut page: PageHtml,
        tags: Vec<String>,
        entries: &[Entry],
    ) {
        let host = self.world.hosts.pages[at].clone();
        let own = self.url(&host, "");
        if at % 3 == 1 {
            page.head.push_str("<base href=\"/img/\">\n");
            page.has_base = true;
        }
        let refer = |url: &str| refer(url, &own, at);
        for entry in entries {
            page.body.push_str(&entry.html(&refer));
        }
        let html: Arc<str> = page.finish().into();
        let page_url = self.put(&host, path, Answer::Page { html, tags });
        for entry in entries {
            self.site.found.push(Found {
                image_url: entry.url.clone(),
                page_url: page_url.clone(),
                fate: entry.fate.clone(),
            });
        }
    }

    fn lay_out_lists(&mut self) {
        let hosts = &self.world.hosts;
        let (per_page, per_section) = (hosts.pictures_per_page, hosts.pages_per_section);
        for (at, list) in std::mem::take(&mut self.lists).into_iter().enumerate() {
            let order = Draw::new(self.seed, "listing", at as u64).permutation(list.len());
            let list: Vec<Entry> = order.into_iter().map(|index| list[index].clone()).collect();
            let pages: Vec<&[Entry]> = list.chunks(per_page).collect();
            for (section, pages) in pages.chunks(per_section).enumerate() {
                self.section(at, section, pages);
            }
        }
    }

    fn section(&mut self, at: usize, section: usize, pages: &[&[Entry]]) {
        let host = self.world.hosts.pages[at].clone();
        let mut index = PageHtml::new(format!("{host}, section {section}"));
        for (number, entries) in pages.iter().enumerate() {
            let path = format!("/s{section}/p{number}.html");
            let mut page = PageHtml::new(format!("{host}, section {section}, page {number}"));
            // A page with a base needs absolute links, because the base applies to links as well.
            page.link(&format!("/s{section}/"), "up");
            if number + 1 < pages.len() {
                page.link(&format!("/s{section}/p{}.html#top", number + 1), "next");
            }
            if let Some(shown) = entries
                .iter()
                .find(|entry| matches!(entry.fate, Fate::Row(_)))
            {
                let url = &shown.url;
                page.head
                    .push_str(&format!("<meta property=\"og:image\" content=\"{url}\">\n"));
            }
            self.page(at, &path, page, Vec::new(), entries);
            if number + 1 == pages.len() {
                // An old address redirects to the last page.
                let old = format!("/old/s{section}-p{number}.html");
                self.put(
                    &host,
                    &old,
                    Answer::Redirect {
                        status: 301,
                        location: Some(path),
                    },
                );
                index.link(&format!("..{old}"), "last page");
            } else {
                index.link(&format!("p{number}.html"), &format!("page {number}"));
            }
        }
        let html = index.finish().into();
        self.put(
            &host,
            &format!("/s{section}/"),
            Answer::Page {
                html,
                tags: Vec::new(),
            },
        );
        self.roots[at].push((format!("s{section}/"), format!("section {section}")));
    }

    /// Adds links to pages that cannot be fetched.
    fn bad_pages(&mut self) {
        for n in 0..self.world.planted.bad_pages {
            let at = n % self.roots.len();
            let host = self.world.hosts.pages[at].clone();
            let first = self.world.hosts.pages[0].clone();
            let back = Answer::Redirect {
                status: 302,
                location: Some(format!("/round/{n}.html")),
            };
            self.put(&host, &format!("/round/{n}-b.html"), back);
            let forth = Answer::Redirect {
                status: 302,
                location: Some(format!("/round/{n}-b.html")),
            };
            let turning = self.put(&host, &format!("/round/{n}.html"), forth);
            for (code, url) in [
                ("http_status", self.url(&host, &format!("/rooms/{n}.html"))),
                (
                    "robots",
                    self.url(&first, &format!("/private/room-{n}.html")),
                ),
                ("redirects", turning),
            ] {
                self.roots[at].push((url, format!("room {n}")));
                *self.site.rejected_pages.entry(code.to_owned()).or_default() += 1;
            }
        }
        if self.world.planted.bad_pages > 0 {
            let closed = self.url("closed", "/");
            self.roots[0].push((closed, "a closed house".to_owned()));
            *self
                .site
                .rejected_pages
                .entry("robots".to_owned())
                .or_default() += 1;
        }
    }

    fn roots(&mut self) {
        let hosts = self.world.hosts.pages.clone();
        for (at, links) in std::mem::take(&mut self.roots).into_iter().enumerate() {
            let mut root = PageHtml::new(format!("welcome to {}", hosts[at]));
            for (target, label) in links {
                root.link(&target, &label);
            }
            root.link("licence.html", "licence");
            let neighbour = self.url(&hosts[(at + 1) % hosts.len()], "/");
            root.link(&neighbour, "our neighbours");
            let page = |page: &PageHtml| Answer::Page {
                html: page.finish().into(),
                tags: Vec::new(),
            };
            let url = self.put(&hosts[at], "/", page(&root));
            self.site.seeds.push(url);
            self.put(
                &hosts[at],
                "/licence.html",
                page(&PageHtml::new("all pictures are CC0")),
            );
        }
    }

    /// Adds ten pages on the host with a Crawl-delay. Some of them have a picture.
    fn quiet_pages(&mut self) {
        let licence = self.url(&self.world.hosts.pages[0], "/licence.html");
        let mut root = PageHtml::new("a quiet place");
        root.licence.clone_from(&licence);
        let entries = std::mem::take(&mut self.quiet);
        for number in 1..QUIET_PAGES {
            let path = format!("/{number}.html");
            let mut page = PageHtml::new(format!("quiet page {number}"));
            page.licence.clone_from(&licence);
            root.link(&path, &format!("page {number}"));
            let own: Vec<&Entry> = entries
                .iter()
                .skip(number - 1)
                .step_by(QUIET_PAGES - 1)
                .collect();
            for entry in &own {
                page.body.push_str(&entry.html(&str::to_owned));
            }
            let html = page.finish().into();
            let page_url = self.put(
                "quiet",
                &path,
                Answer::Page {
                    html,
                    tags: Vec::new(),
                },
            );
            self.site.found.extend(own.iter().map(|entry| Found {
                image_url: entry.url.clone(),
                page_url: page_url.clone(),
                fate: entry.fate.clone(),
            }));
        }
        root.body
            .push_str("<p>We have one slow machine: please wait a second between requests.</p>\n");
        let html = root.finish().into();
        let url = self.put(
            "quiet",
            "/",
            Answer::Page {
                html,
                tags: Vec::new(),
            },
        );
        self.site.seeds.push(url);
    }
}

/// A reference to a URL from a page of the host `own`: by its path, relative to the page's base, or
/// relative to the page, which is one level below the root.
fn refer(url: &str, own: &str, way: usize) -> String {
    let Some(path) = url.strip_prefix(own) else {
        return match url.strip_prefix("http:") {
            Some(rest) if !way.is_multiple_of(3) && url.len().is_multiple_of(2) => rest.to_owned(),
            _ => url.to_owned(),
        };
    };
    match way % 3 {
        1 => path.strip_prefix("/img/").unwrap_or(path).to_owned(),
        2 => format!("..{path}"),
        _ => path.to_owned(),
    }
}
