//! What the HTTP relay does to messages, as the other side sees it.

use anyhow::Result;
use serde_json::Value;
use weir_e2e_tests::{HTTP, Site, backend, config, pool, service, start, unchecked_pool, vip};
use weir_harness::{
    Lab, Weir, WeirConfig,
    lab::{CLIENT_V4, CLIENT_V6, Family},
    peer::{
        curl::{self, Response, url},
        mirror::Mirror,
    },
    wait_until,
};

/// Values of a field in the request that the mirror received.
fn received(response: &Response, name: &str) -> Vec<String> {
    let text = response.text();
    text.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect()
}

#[test]
fn header_rules_and_forwarded_fields() -> Result<()> {
    let lab = Lab::unique(1)?;
    let origin = [family_v4(81), family_v4(82)];
    let _mirror = Mirror::start(
        &lab.backends[0],
        origin[0].parse()?,
        &["X-Old: 1", "X-Old: 2", "X-Kept: k"],
    )?;
    let mut body = unchecked_pool("web", &[(origin[0].clone(), 10)]);
    let rules = r#"
request_headers = [
  { set = "X-Service", value = "{service.name}" },
  { append = "X-Via-Box", value = "{node.name}" },
  { remove = "X-Secret" },
  { set = "X-Client", value = "{client.address}" },
]
response_headers = [
  { remove = "X-Old" },
  { set = "X-Pool", value = "{pool.name}" },
]
"#;
    let listen = |port| Family::ALL.map(|family| vip(family, port).to_string());
    body += &service("www", "http", &listen(80), "web", rules);
    let trusted = "trusted_proxies = [\"192.0.2.0/24\", \"2001:db8:1::/64\"]\n";
    body += &service("trusting", "http", &listen(81), "web", trusted);
    let rfc = format!("{trusted}forwarded = \"forwarded\"\n");
    body += &service("rfc7239", "http", &listen(82), "web", &rfc);
    body += &service("silent", "http", &listen(83), "web", "forwarded = \"off\"\n");
    let weir = start(&lab, body)?;

    for (family, client) in Family::ALL
        .into_iter()
        .zip([CLIENT_V4.to_string(), CLIENT_V6.to_string()])
    {
        let get = |port: u16, fields: &[&str]| -> Result<Response> {
            let mut args = Vec::new();
            fields.iter().for_each(|field| args.extend(["-H", field]));
            let response = weir.with_log(curl::get(
                &lab.client,
                &url(vip(family, port), "/path?q=1"),
                &args,
            ))?;
            assert_eq!(response.status, 200, "{}", response.text());
            Ok(response)
        };

        let response = get(
            80,
            &[
                "X-Service: forged",
                "X-Via-Box: other",
                "X-Secret: s",
                "x-secret: t",
            ],
        )?;
        assert!(
            response.text().starts_with("GET /path?q=1 HTTP/1.1\r\n"),
            "{}",
            response.text()
        );
        assert_eq!(
            received(&response, "Host"),
            [vip(family, 80).to_string().trim_end_matches(":80")]
        );
        assert_eq!(received(&response, "X-Service"), ["www"]);
        assert_eq!(received(&response, "X-Via-Box"), ["other", "test-box"]);
        assert!(received(&response, "X-Secret").is_empty());
        assert_eq!(received(&response, "X-Client"), [client.as_str()]);
        assert_eq!(received(&response, "X-Forwarded-For"), [client.as_str()]);
        assert!(response.field("X-Old").is_empty(), "{:?}", response.fields);
        assert_eq!(response.field("X-Kept"), ["k"]);
        assert_eq!(response.field("X-Pool"), ["web"]);

        // A stranger's word about where it comes from is not passed on.
        let response = get(
            80,
            &["X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9"],
        )?;
        assert_eq!(received(&response, "X-Forwarded-For"), [client.as_str()]);
        assert!(!response.text().contains("203.0.113.9"), "{}", response.text());
        // A trusted proxy's is, and appended to.
        let response = get(81, &["X-Forwarded-For: 203.0.113.9"])?;
        assert_eq!(
            received(&response, "X-Forwarded-For").join(", "),
            format!("203.0.113.9, {client}")
        );
        let response = get(82, &["Forwarded: for=203.0.113.9"])?;
        let written = received(&response, "Forwarded").join(", ");
        let node = if family == Family::V4 {
            client.clone()
        } else {
            format!("\"[{client}]\"")
        };
        assert!(written.starts_with("for=203.0.113.9, for="), "{written}");
        assert!(written.contains(&format!("for={node}")), "{written}");
        assert!(received(&response, "X-Forwarded-For").is_empty());
        let response = get(83, &["X-Forwarded-For: 203.0.113.9"])?;
        assert_eq!(received(&response, "X-Forwarded-For"), ["203.0.113.9"]);
    }
    Ok(())
}

fn family_v4(port: u16) -> String {
    backend(Family::V4, 0, port)
}

#[test]
fn statuses_and_methods_pass_as_they_are() -> Result<()> {
    let site = Site::new(1)?;
    let weir = start(&site.lab, config(&[0]))?;
    for family in Family::ALL {
        for status in [404, 500, 503] {
            let target = url(vip(family, HTTP), &format!("/status/{status}"));
            let response = weir.with_log(curl::get(&site.lab.client, &target, &[]))?;
            assert_eq!(response.status, status);
            assert_eq!(response.field("X-Backend"), ["b1"], "{:?}", response.fields);
        }
        let target = url(vip(family, HTTP), "/files/none");
        let head = weir.with_log(curl::get(&site.lab.client, &url(vip(family, HTTP), "/"), &["-I"]))?;
        assert_eq!((head.status, head.body.len()), (200, 0));
        let deleted = weir.with_log(curl::get(&site.lab.client, &target, &["-X", "DELETE"]))?;
        assert_eq!(deleted.status, 404);
        // HTTP/1.0 without Host.
        let old = weir.with_log(curl::get(
            &site.lab.client,
            &url(vip(family, HTTP), "/"),
            &["-0", "-H", "Host:"],
        ))?;
        assert_eq!((old.status, old.who().as_str()), (200, "b1"));
    }
    Ok(())
}

#[test]
fn a_request_that_can_be_read_in_two_ways_reaches_no_backend() -> Result<()> {
    use std::io::{Read, Write};

    let site = Site::new(1)?;
    let weir = start(&site.lab, config(&[0]))?;
    let requests = [
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
    ];
    for request in requests {
        let mut stream = weir_harness::peer::echo::connect(&site.lab.client, vip(Family::V4, HTTP))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status: u16 = answer.split(' ').nth(1).unwrap_or_default().parse().unwrap_or(0);
        assert!(matches!(status, 400 | 501), "{request:?} was answered {answer:?}");
    }
    let log = site.nginx[0].access_log();
    assert!(log.is_empty(), "{log:?}");
    weir.with_log(curl::get(&site.lab.client, &url(vip(Family::V4, HTTP), "/"), &[]))?;
    assert_eq!(site.nginx[0].wait_logged(1)?.len(), 1);
    Ok(())
}

#[test]
fn one_access_record_per_request() -> Result<()> {
    let site = Site::new(1)?;
    let body = pool("web", &[(backend(Family::V4, 0, 80), 10)])
        + &service("www", "http", &[vip(Family::V4, HTTP).to_string()], "web", "");
    let mut config = WeirConfig::both_planes(body);
    config.args = vec!["--log-format", "json"];
    let weir = Weir::start(&site.lab.router, config)?;
    weir.wait_all_up()?;
    for path in ["/one", "/status/404", "/three"] {
        curl::get(&site.lab.client, &url(vip(Family::V4, HTTP), path), &[])?;
    }
    let mut records = wait_until(
        weir_harness::weir::PATIENCE,
        "three access records are written",
        || {
            let log = weir.access_log();
            let records: Vec<Value> = log
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect();
            if records.len() >= 3 { Ok(records) } else { Err(log) }
        },
    )?;
    assert_eq!(records.len(), 3, "{records:?}");
    // Two workers hand their records over in no order.
    records.sort_by_key(|record| record["time"].to_string());
    for (record, (path, status)) in records
        .iter()
        .zip([("/one", 200), ("/status/404", 404), ("/three", 200)])
    {
        let text = record.to_string();
        assert_eq!(record["service"], "www", "{text}");
        assert_eq!(record["pool"], "web", "{text}");
        assert_eq!(record["backend"], backend(Family::V4, 0, 80), "{text}");
        assert_eq!(record["status"], status, "{text}");
        assert_eq!(record["target"], path, "{text}");
        assert_eq!(record["method"], "GET", "{text}");
        assert_eq!(record["end"], "ok", "{text}");
        let client = record["client"].as_str().unwrap_or_default();
        assert!(client.starts_with(&CLIENT_V4.to_string()), "{text}");
    }
    Ok(())
}
