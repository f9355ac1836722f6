//! The cases of RFC 9309 and of Google's published tests, as tables.

use super::*;

fn allowed(file: &str, agent: &str, url: &str) -> bool {
    let robots = Robots::parse(file.as_bytes(), agent);
    robots.check(&Url::parse(url).unwrap()).is_ok()
}

/// (file, [(url path, allowed)]) for FooBot.
fn table(cases: &[(&str, &[(&str, bool)])]) {
    for (file, paths) in cases {
        for (path, expected) in *paths {
            let url = format!("http://foo.bar{path}");
            assert_eq!(
                allowed(file, "FooBot", &url),
                *expected,
                "{path} under\n{file}"
            );
        }
    }
}

#[test]
fn lines_are_read_forgivingly() {
    table(&[
        ("user-agent: FooBot\ndisallow: /\n", &[("/x/y", false)]),
        ("foo: FooBot\nbar: /\n", &[("/x/y", true)]),
        ("user-agent FooBot\ndisallow /\n", &[("/x/y", false)]),
        ("", &[("/x/y", true)]),
        (
            "\u{feff}User-Agent: foobot\nDisallow: /x\n",
            &[("/x", false), ("/y", true)],
        ),
        (
            "USER-AGENT : FooBot # us\r\nDISALLOW : /x # not\rAllow: /x/y\n",
            &[("/x", false), ("/x/y", true)],
        ),
        (
            "User-agent: FooBot\n\n\n   Disallow:\t/x   \n",
            &[("/x", false)],
        ),
        (
            "Disallow: /\nUser-agent: FooBot\nDisallow: /x\n",
            &[("/", true), ("/x", false)],
        ),
        ("User-agent: FooBot\nDissallow: /x\n", &[("/x", false)]),
        ("User-agent: FooBot\nDisallow:\n", &[("/", true)]),
        ("User-agent: FooBot\nAllow:\nDisallow: /\n", &[("/", false)]),
        ("User-agent: FooBot\nDisallow: x\n", &[("/x", true)]),
        (
            "\0\u{1}garbage\nUser-agent: FooBot\nDisallow: /x",
            &[("/x", false)],
        ),
    ]);
}

#[test]
fn groups_merge_and_the_star_is_a_fallback() {
    table(&[
        (
            "allow: /foo/bar/\n\nuser-agent: FooBot\ndisallow: /\nallow: /x/\nuser-agent: BarBot\n\
             disallow: /\nallow: /y/\n\n\nallow: /w/\nuser-agent: BazBot\n\nuser-agent: FooBot\n\
             allow: /z/\ndisallow: /\n",
            &[
                ("/x/b", true),
                ("/z/d", true),
                ("/y/c", false),
                ("/w/a", false),
                ("/foo/bar/", false),
            ],
        ),
        (
            "User-agent: *\nDisallow: /\nUser-agent: FooBot\nDisallow: /x\n",
            &[("/y", true), ("/x", false)],
        ),
        (
            "User-agent: FooBot\nDisallow: /x\nUser-agent: *\nDisallow: /y\n",
            &[("/y", true), ("/x", false)],
        ),
        (
            "User-agent: FooBot\n\nUser-agent: *\nDisallow: /\n",
            &[("/x", false)],
        ),
        ("User-agent: *\nDisallow: /\n", &[("/x", false)]),
        ("User-agent: * baz\nDisallow: /\n", &[("/x", false)]),
        ("User-agent: *baz\nDisallow: /\n", &[("/x", true)]),
        ("User-agent: FooBot/2.1\nDisallow: /\n", &[("/x", false)]),
        ("User-agent: FooBot bar\nDisallow: /\n", &[("/x", false)]),
        ("User-agent: Foo\nDisallow: /\n", &[("/x", true)]),
        ("User-agent: FooBotNews\nDisallow: /\n", &[("/x", true)]),
        ("User-agent: BarBot\nDisallow: /\n", &[("/x", true)]),
        (
            "User-agent: FooBot\nUser-agent: BarBot\nDisallow: /x\n",
            &[("/x", false)],
        ),
        // Unknown keys do not end a group (RFC 9309, 2.2.4).
        (
            "User-agent: BarBot\nSitemap: https://foo.bar/s\nUser-agent: *\nDisallow: /\n",
            &[("/x", false)],
        ),
        (
            "User-agent: FooBot\nInvalid: x\nUser-agent: BarBot\nDisallow: /\n",
            &[("/x", false)],
        ),
        (
            "User-agent: FooBot\nCrawl-delay: 1\nUser-agent: BarBot\nDisallow: /\n",
            &[("/x", false)],
        ),
        // A group that names us and has no rules allows everything.
        (
            "User-agent: FooBot\nDisallow:\nUser-agent: *\nDisallow: /\n",
            &[("/x", true)],
        ),
    ]);
}

#[test]
fn the_longest_match_wins_and_allow_among_equals() {
    let both = "user-agent: FooBot\n";
    let page = "/x/page.html";
    for (rules, path, expected) in [
        ("disallow: /x/page.html\nallow: /x/\n", page, false),
        ("allow: /x/page.html\ndisallow: /x/\n", page, true),
        ("allow: /x/page.html\ndisallow: /x/\n", "/x/", false),
        ("disallow: \nallow: \n", page, true),
        ("disallow: /\nallow: /\n", page, true),
        ("disallow: /x\nallow: /x/\n", "/x", false),
        ("disallow: /x\nallow: /x/\n", "/x/", true),
        ("disallow: /x/page.html\nallow: /x/page.html\n", page, true),
        ("allow: /page\ndisallow: /*.html\n", "/page.html", false),
        ("allow: /page\ndisallow: /*.html\n", "/page", true),
        ("allow: /x/page.\ndisallow: /*.html\n", page, true),
        ("disallow: /x/*\nallow: /x\n", page, false),
        ("allow: /$\ndisallow: /\n", "/", true),
        ("allow: /$\ndisallow: /\n", page, false),
        ("disallow: /\n", "/robots.txt", true),
    ] {
        let file = format!("{both}{rules}");
        table(&[(&file, &[(path, expected)])]);
    }
}

#[test]
fn patterns_know_stars_and_the_end() {
    for (pattern, path, expected) in [
        ("/fish", "/fish", true),
        ("/fish", "/fish.html", true),
        ("/fish", "/fishheads/x", true),
        ("/fish", "/fish?id=1", true),
        ("/fish", "/Fish", false),
        ("/fish", "/catfish", false),
        ("/fish*", "/fish", true),
        ("/fish*", "/bluefish", false),
        ("/fish/", "/fish", false),
        ("/fish/", "/fish/?id=1", true),
        ("/*.php", "/index.php", true),
        ("/*.php", "/folder/f.php?x", true),
        ("/*.php", "/windows.PHP", false),
        ("/*.php$", "/f.php", true),
        ("/*.php$", "/f.php?x", false),
        ("/*.php$", "/f.php/", false),
        ("/*.php$", "/f.php5", false),
        ("/*.php$", "/a.php/b.php", true),
        ("/fish*.php", "/fishheads/c.php?x", true),
        ("*/x", "/a/x", true),
        ("/a$b", "/a$b", true),
        ("/a$b", "/a", false),
        ("/x$", "/x", true),
        ("/x$", "/xy", false),
        ("/*", "/anything", true),
        ("/**a***b$", "/xaxb", true),
        ("/*ab", "/aab", true),
        ("*$", "/q", true),
        ("/?a", "/?a=b", true),
    ] {
        assert_eq!(
            matches(&normalise(pattern.as_bytes()), &normalise(path.as_bytes())),
            expected,
            "{pattern} {path}"
        );
    }
}

#[test]
fn percent_encoding_makes_no_difference() {
    for (pattern, path, blocked) in [
        (
            "/foo/bar?qux=taz&baz=http://foo.bar?tar&par",
            "/foo/bar?qux=taz&baz=http://foo.bar?tar&par",
            true,
        ),
        ("/foo/bar/ツ", "/foo/bar/%E3%83%84", true),
        ("/foo/bar/%E3%83%84", "/foo/bar/ツ", true),
        ("/foo/bar/%e3%83%84", "/foo/bar/%E3%83%84", true),
        // RFC 9309, 2.2.2: unreserved characters are compared unencoded.
        ("/foo/bar/%62%61%7A", "/foo/bar/baz", true),
        ("/foo/bar/baz", "/foo/bar/%62%61%7A", true),
        // Reserved characters are not changed.
        ("/a%2Fb", "/a/b", false),
        ("/a%2fb", "/a%2Fb", true),
        (
            "/path/file-with-a-%2A.html",
            "/path/file-with-a-x.html",
            false,
        ),
        (
            "/path/file-with-a-%2A.html",
            "/path/file-with-a-%2a.html",
            true,
        ),
        ("/a%24", "/a", false),
        ("/100%", "/100%", true),
    ] {
        let file = format!("User-agent: *\nDisallow: {pattern}\n");
        let url = format!("http://foo.bar{path}");
        assert_eq!(!allowed(&file, "FooBot", &url), blocked, "{pattern} {path}");
    }
}

#[test]
fn crawl_delay_binds_its_group() {
    for (file, expected) in [
        ("User-agent: *\nCrawl-delay: 1\nDisallow:\n", Some(1.0)),
        (
            "User-agent: FooBot\nCrawl-delay: 0.5\nUser-agent: *\nCrawl-delay: 9\n",
            Some(0.5),
        ),
        ("User-agent: BarBot\nCrawl-delay: 9\n", None),
        (
            "User-agent: BarBot\nUser-agent: FooBot\nCrawl-delay: 3\n",
            Some(3.0),
        ),
        (
            "User-agent: BarBot\nDisallow: /x\nUser-agent: FooBot\nDisallow:\nCrawl-delay: 3\n",
            Some(3.0),
        ),
        ("User-agent: *\nCrawl-delay: x\n", None),
        ("User-agent: *\nCrawl-delay: -1\n", None),
        ("User-agent: *\nCrawl-delay: NaN\n", None),
        ("User-agent: *\nCrawl-delay: 2\nCrawl-delay: 1\n", Some(2.0)),
    ] {
        let delay = Robots::parse(file.as_bytes(), "FooBot").crawl_delay();
        assert_eq!(delay.map(|d| d.as_secs_f64()), expected, "{file}");
    }
    let endless = Robots::parse(b"User-agent: *\nCrawl-delay: inf\n", "FooBot");
    assert_eq!(endless.crawl_delay(), Some(Duration::MAX));
}

#[test]
fn a_file_that_cannot_be_had_forbids_everything() {
    let url = Url::parse("http://foo.bar/").unwrap();
    for (cause, code) in [
        (RejectCode::HttpStatus, RejectCode::Robots),
        (RejectCode::Network, RejectCode::Robots),
        (RejectCode::Address, RejectCode::Address),
    ] {
        let robots = Robots::unreachable(RejectReason::new(cause, "status 503"));
        let why = robots.check(&url).unwrap_err();
        assert!(why.code == code && why.detail.contains("503"));
    }
    assert!(
        Robots::allow_all()
            .check(&Url::parse("http://foo.bar/").unwrap())
            .is_ok()
    );
}

#[test]
fn hostile_patterns_take_linear_time() {
    let pattern = "/".to_owned() + &"*a".repeat(100_000) + "b";
    let file = format!("User-agent: *\nDisallow: {pattern}\n");
    let path = "a".repeat(1_900);
    assert!(allowed(&file, "FooBot", &format!("http://foo.bar/{path}")));
}

proptest::proptest! {
    /// The search from left to right agrees with trying every position for every star.
    #[test]
    fn matching_agrees_with_trying_everything(pattern in "/[ab*]{0,8}\\$?", path in "/[ab]{0,8}") {
        fn tried(pattern: &[u8], path: &[u8]) -> bool {
            match pattern {
                [] => true,
                [b'$'] => path.is_empty(),
                [b'*', rest @ ..] => (0..=path.len()).any(|at| tried(rest, &path[at..])),
                [first, rest @ ..] => path.first() == Some(first) && tried(rest, &path[1..]),
            }
        }
        proptest::prop_assert_eq!(matches(&pattern, &path), tried(pattern.as_bytes(), path.as_bytes()));
    }
}
