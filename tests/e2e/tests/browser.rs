//! A browser loads a page of many parts through weir, over TLS and HTTP/2, from a backend of HTTP/1.1.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_e2e_tests::{Site, backend, pool, service, vip};
use weir_harness::{
    Weir, WeirConfig,
    certificate::{self, P256},
    lab::Family,
    peer::{chromium, write_noise},
    scratch::Scratch,
    wait_until,
};

const HOST: &str = "www.example.test";

/// Of each kind: sheets and scripts that the page can't do without, pictures, files that a script asks for.
const EACH: usize = 40;
/// Files that a script sends.
const SENT: usize = 20;
/// What each of these has in bytes, times its number.
const SENT_STEP: usize = 3_001;

/// Tells in `#report`, a line per fact, what has arrived: the effect of a sheet, of a script, the width of a picture,
/// length and Adler-32 of a file, the status of one that was sent; and by which protocol with how many bytes.
const REPORT: &str = r#"
const ran = [];
const lines = [];
const adler = bytes => {
  let a = 1, b = 0;
  for (const byte of bytes) { a = (a + byte) % 65521; b = (b + a) % 65521; }
  return b * 65536 + a;
};
const told = (name, work) => work.then(value => lines.push(`${name} ${value}`), e => lines.push(`${name} ${e}`));
const fetched = async name => {
  const response = await fetch(name);
  const bytes = new Uint8Array(await response.arrayBuffer());
  return `${response.status} ${bytes.length} ${adler(bytes)}`;
};
const sent = async (name, length) => {
  const body = new Uint8Array(length).map((_, i) => i % 251);
  return (await fetch(name, { method: "PUT", body })).status;
};
const work = [];
for (let i = 1; i <= EACH; i++) work.push(told(`n${i}`, fetched(`n${i}`)));
for (let i = 1; i <= SENT; i++) work.push(told(`u${i}`, sent(`u${i}`, i * SENT_STEP)));
addEventListener("load", async () => {
  await Promise.all(work);
  for (let i = 1; i <= EACH; i++) {
    lines.push(`c${i}.css ${getComputedStyle(document.getElementById("c" + i)).width}`);
    lines.push(`i${i}.svg ${document.getElementById("i" + i).naturalWidth}`);
  }
  for (const i of ran) lines.push(`s${i}.js ran`);
  for (const entry of performance.getEntriesByType("resource")) {
    const name = entry.name.split("/").pop();
    lines.push(`${name} ${entry.nextHopProtocol} ${entry.decodedBodySize}`);
  }
  const page = performance.getEntriesByType("navigation")[0];
  lines.push(`page.html ${page.nextHopProtocol} ${page.decodedBodySize}`);
  document.getElementById("report").textContent = lines.join("\n");
});
"#;

fn adler(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1, 0), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b * 65_536 + a
}

/// What a page has, and what a browser that has all of it says.
struct Page {
    /// Lines of the report.
    facts: Vec<String>,
    /// Requests: method and path.
    requests: Vec<String>,
}

/// Lays the page and its parts out in the directory of the backend.
fn lay_out(site: &Site) -> Result<Page> {
    let file = |name: &str| -> PathBuf { site.nginx[0].file(name) };
    let (mut facts, mut requests) = (Vec::new(), Vec::new());
    let mut fact = |name: &str, effect: String| -> Result<()> {
        facts.push(format!("{name} {effect}"));
        facts.push(format!("{name} h2 {}", fs::metadata(file(name))?.len()));
        requests.push(format!("GET /files/{name}"));
        Ok(())
    };
    let (mut head, mut body) = (String::new(), String::new());
    for i in 1..=EACH {
        // Lengths from nothing much to many frames.
        let padding = "x".repeat(i * i * 37);
        let name = format!("c{i}.css");
        fs::write(
            file(&name),
            format!("/*{padding}*/\n#c{i} {{ width: {}px }}\n", 100 + i),
        )?;
        fact(&name, format!("{}px", 100 + i))?;
        writeln!(head, "<link rel=stylesheet href={name}>")?;
        writeln!(body, "<div id=c{i}></div>")?;

        let name = format!("s{i}.js");
        fs::write(file(&name), format!("/*{padding}*/\nran.push({i});\n"))?;
        fact(&name, "ran".into())?;
        writeln!(body, "<script src={name}></script>")?;

        let name = format!("i{i}.svg");
        let svg = "http://www.w3.org/2000/svg";
        fs::write(
            file(&name),
            format!("<svg xmlns=\"{svg}\" width=\"{i}\" height=\"9\"><!--{padding}--></svg>\n"),
        )?;
        fact(&name, i.to_string())?;
        writeln!(body, "<img id=i{i} src={name}>")?;

        let name = format!("n{i}");
        write_noise(&file(&name), i * i * 301, i as u64)?;
        let noise = fs::read(file(&name))?;
        fact(&name, format!("200 {} {}", noise.len(), adler(&noise)))?;
    }
    let script = REPORT
        .replace("SENT_STEP", &SENT_STEP.to_string())
        .replace("EACH", &EACH.to_string())
        .replace("SENT", &SENT.to_string());
    let page = format!(
        "<!DOCTYPE html>\n<html><head><meta charset=utf-8><title>parts</title>\n<link rel=icon href=\"data:,\">\n\
         <script>{script}</script>\n{head}</head>\n<body>\n{body}<pre id=\"report\"></pre>\n</body></html>\n"
    );
    fs::write(file("page.html"), &page)?;
    facts.push(format!("page.html h2 {}", page.len()));
    requests.push("GET /files/page.html".into());
    for i in 1..=SENT {
        facts.push(format!("u{i} 201"));
        facts.push(format!("u{i} h2 0"));
        requests.push(format!("PUT /files/u{i}"));
    }
    facts.sort_unstable();
    requests.sort_unstable();
    Ok(Page { facts, requests })
}

/// What is in one of two sorted lists alone.
fn differences(expected: &[String], found: &[String]) -> String {
    let alone = |of: &[String], other: &[String]| -> Vec<String> {
        of.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    format!(
        "missing: {:?}\nnot expected: {:?}",
        alone(expected, found),
        alone(found, expected)
    )
}

#[test]
fn a_browser_loads_a_page_of_many_parts() -> Result<()> {
    let site = Site::new(1)?;
    let page = lay_out(&site)?;
    let scratch = Scratch::new()?;
    let [chain, key] = certificate::pair(&scratch, "www", &[HOST], P256)?;
    let tls = format!(
        "\n[services.www.tls]\ncertificates = [{{ chain = \"{}\", key = \"{}\" }}]",
        chain.display(),
        key.display()
    );
    let at = vip(Family::V4, 443);
    let body = pool("web", &[(backend(Family::V4, 0, 80), 1)])
        + &service("www", "http", &[at.to_string()], "web", &tls);
    let mut config = WeirConfig::both_planes(body);
    config.args = vec!["--log-format", "json"];
    let weir = Weir::start(&site.lab.router, config)?;
    weir.wait_all_up()?;

    let key = chromium::key_hash(&chain)?;
    let url = format!("https://{HOST}/files/page.html");
    let document = weir.with_log(chromium::document(&site.lab.client, &url, HOST, at.ip(), &key))?;

    // What the browser has.
    let (_, report) = document
        .split_once("<pre id=\"report\">")
        .with_context(|| format!("no report: {document}"))?;
    let (report, _) = report.split_once("</pre>").context("the report has no end")?;
    let mut facts: Vec<String> = report.lines().map(str::to_owned).collect();
    facts.sort_unstable();
    ensure!(facts == page.facts, "{}", differences(&page.facts, &facts));
    for i in 1..=SENT {
        let sent: Vec<u8> = (0..i * SENT_STEP).map(|at| (at % 251) as u8).collect();
        ensure!(fs::read(site.nginx[0].file(&format!("u{i}")))? == sent, "u{i}");
    }

    // What weir says of it.
    let records = wait_until(weir_harness::weir::PATIENCE, "all requests are logged", || {
        let log = weir.access_log();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        let records: Vec<Value> = lines
            .filter(|record: &Value| record["service"] == "www")
            .collect();
        if records.len() >= page.requests.len() {
            Ok(records)
        } else {
            Err(log)
        }
    })?;
    let mut requests = Vec::new();
    let mut clients = std::collections::BTreeSet::new();
    for record in &records {
        let said = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(record["version"], "2.0", "{record}");
        assert_eq!(record["end"], "ok", "{record}");
        requests.push(format!("{} {}", said("method"), said("target")));
        clients.insert(said("client"));
    }
    requests.sort_unstable();
    ensure!(
        requests == page.requests,
        "{}",
        differences(&page.requests, &requests)
    );
    // One connection has carried all of them. Chromium may open another beside it, before it knows that it need not.
    assert_eq!(clients.len(), 1, "{clients:?}");
    let metrics = weir.metrics()?;
    let of = |name: &str, labels: &[(&str, &str)]| {
        let labels: Vec<_> = [("service", "www")].iter().chain(labels).copied().collect();
        metrics.sum(name, &labels)
    };
    let connections = of("weir_relay_connections_total", &[])?;
    assert!((1.0..=2.0).contains(&connections), "{connections} connections");
    assert_eq!(of("weir_relay_http2_connections_total", &[])?, connections);
    let all = page.requests.len() as f64;
    assert_eq!(of("weir_relay_requests_total", &[])?, all);
    assert_eq!(of("weir_relay_responses_total", &[("code", "2xx")])?, all);
    assert_eq!(of("weir_relay_ends_total", &[("reason", "ok")])?, all);
    // Nothing else came to an end otherwise.
    assert_eq!(of("weir_relay_ends_total", &[])?, all);
    Ok(())
}
