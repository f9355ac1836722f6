//! Pages in the forms that occur on the web.

use super::*;

fn page(html: &str) -> Page {
    let reading = Reading {
        url: Url::parse("http://a.test/dir/page.html").unwrap(),
        content_type: Some("text/html; charset=utf-8".into()),
        signals: Signals::default(),
        user_agent: "mybot".into(),
        wanted_px: 384,
    };
    read(reading, html.as_bytes()).unwrap()
}

/// `url | origin:text | ...` of every picture.
fn images(html: &str) -> Vec<String> {
    let images = page(html).images.into_iter().map(|found| {
        let url = found.url.unwrap_or_else(|_| "-".into());
        let texts = found.texts.iter();
        let texts = texts.map(|(origin, text)| format!(" | {}:{text}", origin.as_str()));
        format!("{url}{}", texts.collect::<String>())
    });
    images.collect()
}

#[test]
fn pictures_are_found_in_every_form() {
    for (html, expected) in [
        (
            "<img src=b.png alt=' A  red\n ball '>",
            &["http://a.test/dir/b.png | alt:A red ball"][..],
        ),
        (
            "<img src=b.png alt='' title=x>",
            &["http://a.test/dir/b.png | title:x"],
        ),
        (
            "<img src=b.png alt=x title=x>",
            &["http://a.test/dir/b.png | alt:x"],
        ),
        ("<img alt=x>", &[]),
        ("<img src='' alt=x>", &[]),
        ("<img src='data:image/gif;base64,AAAA' alt=x>", &[]),
        (
            "<img src=s.png srcset='s.png 100w, m.png 400w, l.png 900w'>",
            &["http://a.test/dir/m.png"],
        ),
        (
            "<img src=s.png srcset='l.png 2x'>",
            &["http://a.test/dir/l.png"],
        ),
        (
            "<img src=l.png srcset='s.png 0.5x'>",
            &["http://a.test/dir/l.png"],
        ),
        (
            "<picture><source type=image/avif srcset='x.avif 900w'><source srcset='m.webp 500w' type=image/webp>\
             <img src=s.png alt=x></picture>",
            &["http://a.test/dir/m.webp | alt:x"],
        ),
        (
            "<img src='data:image/gif;base64,AA' data-src=b.png alt=x>",
            &["http://a.test/dir/b.png | alt:x"],
        ),
        (
            "<img src=spacer.gif data-original='/b.png'>",
            &["http://a.test/b.png"],
        ),
        (
            "<img src=spacer.gif src2=b.png>",
            &["http://a.test/dir/b.png"],
        ),
        (
            "<img src='data:,x' data-srcset='s.png 100w, m.png 400w'>",
            &["http://a.test/dir/m.png"],
        ),
        (
            "<figure><img src=1.png alt=x><p><img src=2.png></p><figcaption>two <b>balls</b>\n<script>no</script></figcaption></figure><img src=3.png>",
            &[
                "http://a.test/dir/1.png | alt:x | caption:two balls",
                "http://a.test/dir/2.png | caption:two balls",
                "http://a.test/dir/3.png",
            ],
        ),
        (
            "<figure><figure><img src=1.png><figcaption>inner</figcaption></figure><img src=2.png><figcaption>outer</figcaption></figure>",
            &[
                "http://a.test/dir/1.png | caption:inner",
                "http://a.test/dir/2.png | caption:outer",
            ],
        ),
        (
            "<img src=b.png alt=one><img src=./b.png#x alt=two><img src=b.png alt=one>",
            &["http://a.test/dir/b.png | alt:one | alt:two"],
        ),
        (
            "<img class=lazy data-src=b.png alt=x><noscript><img src=b.png alt=x title=y></noscript>",
            &["http://a.test/dir/b.png | alt:x | title:y"],
        ),
        (
            "<noscript><img src=b.png alt=x></noscript>",
            &["http://a.test/dir/b.png | alt:x"],
        ),
        (
            "<meta property=og:image content=/o.png><meta property=og:image:alt content='an o'>",
            &["http://a.test/o.png | alt:an o"],
        ),
        (
            "<meta property=og:image content=/o.png><img src=/o.png alt=x>",
            &["http://a.test/o.png | alt:x"],
        ),
        (
            "<img src=b.png longdesc='http://x/'>",
            &["http://a.test/dir/b.png"],
        ),
        (
            "<img src=b.png longdesc='a ball that lies there'>",
            &["http://a.test/dir/b.png | caption:a ball that lies there"],
        ),
        (
            "<base href='http://b.test/x/'><img src=b.png>",
            &["http://b.test/x/b.png"],
        ),
        (
            "<base href='javascript:x'><img src=b.png>",
            &["http://a.test/dir/b.png"],
        ),
        ("<img src='ftp://a/b.png' alt=x>", &["- | alt:x"]),
        ("<img src='http://[/b.png' alt=x>", &["- | alt:x"]),
        (
            "<img src=\"b.png\" alt=\"&lt;b&gt; &amp; &#39;\">",
            &["http://a.test/dir/b.png | alt:<b> & '"],
        ),
        ("<template><img src=t.png></template>", &[]),
        (
            "<!-- <img src=c.png> --><script>'<img src=s.png>'</script>",
            &[],
        ),
    ] {
        assert_eq!(images(html), expected, "{html}");
    }
}

#[test]
fn links_are_canonical_and_each_once() {
    let html = "<a href=x>1</a><a href=./x#y>2</a><a href=page.html>own</a><a href=mailto:a@b>3</a>\
                <area href=//b.test/><a name=q>4</a><a href='javascript:void(0)'>5</a>";
    assert_eq!(page(html).links, ["http://a.test/dir/x", "http://b.test/"]);
    for meta in ["nofollow", "none", "noindex,nofollow"] {
        let html = format!("<meta name=Robots content={meta}>{html}");
        assert!(page(&html).links.is_empty(), "{meta}");
    }
}

#[test]
fn signals_licence_and_author_are_read() {
    let read = page(
        "<META NAME=\"Robots\" CONTENT=\"NoArchive, NoImageAI\"><meta name=author content=' A  B '>\
         <link rel='license' href='/cc0'><img src=1.png>\
         <figure><img src=2.png><a rel='x license' href=/by>by</a></figure>",
    );
    assert_eq!(read.signals.refusal(), Some("meta=noimageai"));
    assert_eq!(read.attribution.as_deref(), Some("A B"));
    let licences: Vec<_> = read.images.iter().map(|i| i.licence.as_deref()).collect();
    assert_eq!(
        licences,
        [Some("http://a.test/cc0"), Some("http://a.test/by")]
    );
}

#[test]
fn bounds_hold_on_pages_made_to_break_them() {
    let many = page(&"<img src=x.png><a href=x>".repeat(1000));
    assert_eq!((many.images.len(), many.links.len()), (1, 1));
    let many: String = (0..20_000)
        .map(|n| format!("<img src={n}.png><a href={n}>"))
        .collect();
    assert_eq!(page(&many).images.len(), 10_000);
    assert_eq!(page(&many).links.len(), 10_000);
    let long = format!("<img src='{}' alt=x>", "y".repeat(100_000));
    let found = &page(&long).images[0];
    let unusable = found.url.as_ref().unwrap_err();
    assert!(unusable.shown.starts_with("http://a.test/dir/yyy") && unusable.shown.len() == 4_096);
    assert_eq!(found.raw_url.len(), 4_096);
    let reading = Reading {
        url: Url::parse("http://a.test/").unwrap(),
        content_type: None,
        signals: Signals::default(),
        user_agent: "mybot".into(),
        wanted_px: 1,
    };
    assert_eq!(
        read(reading, "<div>".repeat(1 << 20).as_bytes()),
        Err(TooDeep)
    );
}

proptest::proptest! {
    #[test]
    fn any_bytes_make_a_page(body in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let reading = Reading {
            url: Url::parse("http://a.test/").unwrap(),
            content_type: None,
            signals: Signals::default(),
            user_agent: "mybot".into(),
            wanted_px: 1,
        };
        proptest::prop_assert!(read(reading, &body).is_ok());
    }
}
