//! The place of every pair: its host and path, the form on its page, and its special properties.

use super::Fate;
use super::answer::{Answer, Picture};
use super::markup::{Entry, Form, Slot};
use super::pages::Builder;
use super::pairs::Pair;
use super::plant::HARMLESS;
use crate::draw::Draw;

/// Attributes of pictures that scripts load later.
const LAZY: [&str; 4] = ["data-src", "data-original", "data-lazy-src", "data-lazy"];

impl Builder<'_> {
    pub(super) fn place_pairs(&mut self, pairs: &[Pair]) {
        let planted = self.world.planted.clone();
        let order = Draw::new(self.seed, "special pairs", 0).permutation(pairs.len());
        let mut special = vec![Special::None; pairs.len()];
        let kinds = [
            (Special::Quiet, planted.quiet),
            (Special::Redirected, planted.redirected),
            (Special::Flaky, planted.flaky),
            (Special::Tagged, planted.harmless_tags),
        ];
        let drawn = kinds
            .iter()
            .flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count));
        for (item, kind) in order.iter().zip(drawn) {
            special[*item] = kind;
        }
        for (item, pair) in pairs.iter().enumerate() {
            self.place(item, pair, special[item]);
        }
        let single =
            |item: &&usize| special[**item] == Special::None && pairs[**item].texts.len() == 1;
        let copied: Vec<usize> = order
            .iter()
            .rev()
            .filter(single)
            .take(planted.duplicates)
            .copied()
            .collect();
        self.copies(&copied, pairs);
    }

    fn picture(&self, item: usize, pair: &Pair) -> Picture {
        let is_jpeg = Draw::new(self.seed, "format", item as u64).percent(20.0);
        Picture {
            scene: pair.scene.clone(),
            item: item as u64,
            size_px: self.world.scenes.size_px,
            is_jpeg,
        }
    }

    /// The host and path of a pair's picture.
    fn location(&self, item: usize, picture: &Picture) -> (String, String) {
        let host = self.bulk(item);
        let extension = if picture.is_jpeg { "jpg" } else { "png" };
        let is_first = host == self.world.hosts.pages[0];
        let folder = if is_first && item.is_multiple_of(40) {
            "private/open"
        } else {
            "img"
        };
        (host, format!("/{folder}/p{item}.{extension}"))
    }

    fn place(&mut self, item: usize, pair: &Pair, special: Special) {
        let picture = self.picture(item, pair);
        let (host, path) = self.location(item, &picture);
        let draw = &mut Draw::new(self.seed, "form", item as u64);
        let (form, small) = match special {
            Special::None => self.form(draw, &host, item, &picture),
            _ => (Form::Plain, None),
        };
        let plain = Answer::Picture {
            picture: picture.clone(),
            tags: Vec::new(),
        };
        let url = match special {
            Special::None => self.put(&host, &path, plain),
            Special::Quiet => self.put("quiet", &path, plain),
            Special::Flaky => self.put(&host, &path, Answer::Flaky(picture.clone())),
            Special::Tagged => {
                let tags = vec![HARMLESS[item % HARMLESS.len()].to_owned()];
                self.put(
                    &host,
                    &path,
                    Answer::Picture {
                        picture: picture.clone(),
                        tags,
                    },
                )
            }
            Special::Redirected => {
                let end = self.put(&self.bulk(item + 1), &path, plain);
                let status = [301, 302, 303, 307, 308][item % 5];
                let answer = Answer::Redirect {
                    status,
                    location: Some(end),
                };
                self.put(&host, &format!("/go/p{item}"), answer)
            }
        };
        self.site.scenes.insert(url.clone(), pair.scene.clone());
        let texts: Vec<_> = pair
            .texts
            .iter()
            .map(|(_, text, kind)| (text.clone(), *kind))
            .collect();
        for (text, kind) in &texts {
            self.site.kinds.insert((url.clone(), text.clone()), *kind);
        }
        let entry = Entry {
            small,
            form,
            size_px: picture.size_px,
            ..Entry::plain(url, slots(pair), Fate::Row(texts))
        };
        match special {
            Special::Quiet => self.quiet.push(entry),
            _ => self.list(self.page_host(item), entry),
        }
    }

    /// The host of the page. Pictures are on pages of their own host; those of the picture host are
    /// distributed over all page hosts.
    fn page_host(&self, item: usize) -> usize {
        let pages = self.world.hosts.pages.len();
        let at = item % (pages + 1);
        if at < pages {
            at
        } else {
            (item / (pages + 1)) % pages
        }
    }

    fn form(
        &mut self,
        draw: &mut Draw,
        host: &str,
        item: usize,
        picture: &Picture,
    ) -> (Form, Option<String>) {
        let form = match draw.below(10) {
            0 => Form::Source,
            1 => Form::Widths,
            2 => Form::Densities,
            3 => Form::Lazy(LAZY[draw.below(LAZY.len())]),
            _ => Form::Plain,
        };
        if !form.has_small() {
            return (form, None);
        }
        let picture = Picture {
            size_px: picture.size_px / 2,
            ..picture.clone()
        };
        let answer = Answer::Picture {
            picture,
            tags: Vec::new(),
        };
        (
            form,
            Some(self.put(host, &format!("/img/small,{item}.png"), answer)),
        )
    }

    /// Repeats pairs on separate pages: half with the same URL, half as a copy of the bytes.
    fn copies(&mut self, items: &[usize], pairs: &[Pair]) {
        let entries: Vec<Entry> = items
            .iter()
            .enumerate()
            .map(|(n, item)| {
                let pair = &pairs[*item];
                let picture = self.picture(*item, pair);
                let (host, path) = self.location(*item, &picture);
                let url = if n % 2 == 0 {
                    self.url(&host, &path)
                } else {
                    let answer = Answer::Picture {
                        picture,
                        tags: Vec::new(),
                    };
                    self.put(&self.bulk(item + 1), &format!("/img/copy-{n}.png"), answer)
                };
                let texts: Vec<_> = pair
                    .texts
                    .iter()
                    .map(|(_, text, kind)| (text.clone(), *kind))
                    .collect();
                for (text, kind) in &texts {
                    self.site.kinds.insert((url.clone(), text.clone()), *kind);
                }
                Entry::plain(url, slots(pair), Fate::Duplicate(texts))
            })
            .collect();
        for (page, entries) in entries
            .chunks(self.world.hosts.pictures_per_page)
            .enumerate()
        {
            let host = self.world.hosts.pages[page % self.lists.len()].clone();
            self.special_page(
                &host,
                &format!("/copies/{page}.html"),
                "",
                Vec::new(),
                entries.to_vec(),
            );
        }
    }

    pub(super) fn place_without_text(&mut self) {
        for n in 0..self.world.planted.without_text {
            let picture = self.extra_picture();
            let answer = Answer::Picture {
                picture,
                tags: Vec::new(),
            };
            let url = self.put(&self.bulk(n), &format!("/img/mute-{n}.png"), answer);
            self.list(n, Entry::plain(url, Vec::new(), Fate::Row(Vec::new())));
        }
    }
}

/// The special property of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Special {
    None,
    Quiet,
    Redirected,
    Flaky,
    Tagged,
}

fn slots(pair: &Pair) -> Vec<(Slot, String)> {
    pair.texts
        .iter()
        .map(|(slot, text, _)| (*slot, text.clone()))
        .collect()
}
