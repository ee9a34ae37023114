//! Rules that choose where a request goes, from a real client to real backends: by path, host, header and method, in
//! their order, before and after a reload.

use anyhow::Result;
use weir_e2e_tests::{Site, backend, service, start, unchecked_pool, vip};
use weir_harness::{
    Weir,
    lab::Family,
    peer::curl::{self, Response, url},
};

const RULES: &str = r#"
rules = [
  { match = { path = "/robots.txt" }, respond = { body = "no\n" } },
  { match = { host = "*.shop.example", method = "GET" }, pool = "shop" },
  { match = { path_prefix = "/api", header = { name = "X-Api-Version", value = ["2", "3"] } }, pool = "beta" },
  { match = { path_prefix = "/api" }, pool = "api", rewrite = { strip_prefix = "/api" } },
  { match = { header = [{ name = "Cookie", prefix = "beta=" }, { name = "X-Seen" }] }, pool = "beta" },
]
"#;

fn pools() -> String {
    ["web", "api", "beta", "shop"]
        .into_iter()
        .enumerate()
        .map(|(at, name)| unchecked_pool(name, &[(backend(Family::V4, at, 80), 10)]))
        .collect()
}

fn body(rules: &str) -> String {
    let listen = [vip(Family::V4, 80).to_string()];
    pools() + &service("www", "http", &listen, "web", rules)
}

fn get(weir: &Weir<'_>, site: &Site, path: &str, args: &[&str]) -> Result<Response> {
    weir.with_log(curl::get(&site.lab.client, &url(vip(Family::V4, 80), path), args))
}

/// Each request is answered by the backend of the pool that the first rule which holds for it names.
#[test]
fn rules_choose_the_pool() -> Result<()> {
    let site = Site::new(4)?;
    let weir = start(&site.lab, body(RULES))?;
    let (web, api, beta, shop) = ("b1", "b2", "b3", "b4");
    for (path, args, expected) in [
        ("/", &[][..], web),
        ("/apis", &[], web),
        ("/api", &[], api),
        ("/api/", &[], api),
        ("//%61pi/", &[], api),
        ("/api/", &["-H", "X-Api-Version: 2"], beta),
        ("/api/", &["-H", "X-Api-Version: 4"], api),
        ("/", &["-H", "Host: www.Shop.Example"], shop),
        ("/", &["-H", "Host: www.shop.example:8080"], shop),
        ("/", &["-H", "Host: shop.example"], web),
        ("/", &["-H", "Host: www.shop.example", "-X", "OPTIONS"], web),
        ("/", &["-b", "beta=1", "-H", "X-Seen: 1"], beta),
        ("/", &["-b", "a=1; beta=1", "-H", "X-Seen: 1"], web),
        ("/", &["-b", "beta=1"], web),
        // The same over HTTP/2.
        ("/api/", &["--http2-prior-knowledge"], api),
        (
            "/",
            &["--http2-prior-knowledge", "-b", "beta=1", "-H", "X-Seen: 1"],
            beta,
        ),
        (
            "/",
            &["--http2-prior-knowledge", "-H", "Host: a.shop.example"],
            shop,
        ),
    ] {
        let response = get(&weir, &site, path, args)?;
        // nginx has no method but those of files; who it is it says all the same.
        let who = response.field("X-Backend");
        assert_eq!(
            who,
            [expected],
            "{path} {args:?}: {} {}",
            response.status,
            response.text()
        );
    }
    let answered = get(&weir, &site, "/robots.txt", &[])?;
    assert_eq!((answered.status, answered.text().as_str()), (200, "no\n"));
    // The pool is told in records and metrics.
    for pool in ["web", "api", "beta", "shop"] {
        let asked = weir
            .metrics()?
            .sum("weir_relay_backend_requests_total", &[("pool", pool)])?;
        assert!(asked >= 2.0, "{pool}: {asked}");
    }
    Ok(())
}

/// Other rules count from the next request on.
#[test]
fn a_reload_changes_rules() -> Result<()> {
    let site = Site::new(4)?;
    let mut weir = start(&site.lab, body(RULES))?;
    assert_eq!(get(&weir, &site, "/api/", &[])?.field("X-Backend"), ["b2"]);
    let other = RULES.replace("pool = \"api\"", "pool = \"shop\"");
    assert_ne!(other, RULES);
    weir.rewrite(body(&other))?;
    weir.ask(&["reload"])?;
    assert_eq!(get(&weir, &site, "/api/", &[])?.field("X-Backend"), ["b4"]);
    Ok(())
}
