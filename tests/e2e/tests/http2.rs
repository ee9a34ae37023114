//! HTTP/2, mostly without TLS, to real servers and from real clients, through services of mode http.

use std::{fs, net::SocketAddr};

use anyhow::Result;
use weir_e2e_tests::{PATIENT, backend, service, start, vip};
use weir_harness::{
    Lab,
    certificate::{Authority, P256, self_signed},
    lab::Family,
    peer::{
        curl::{self, url},
        http2::{self, Http2},
        nginx::Nginx,
        same_bytes, write_noise,
    },
    scratch::Scratch,
};

fn pool(name: &str, address: &str, check: &str) -> String {
    format!(
        "[pools.{name}]\nprotocol = \"h2c\"\nbackends = [{{ address = \"{address}\" }}]\n\
         [pools.{name}.check]\n{check}\n{PATIENT}\n\n"
    )
}

/// nginx and nghttpd are checked and asked in HTTP/2; bodies arrive byte for byte, trailers too.
#[test]
fn servers_of_http2() -> Result<()> {
    let lab = Lab::unique(2)?;
    let scratch = Scratch::new()?;
    let at: [SocketAddr; 2] = [
        backend(Family::V4, 0, 81).parse()?,
        backend(Family::V4, 1, 82).parse()?,
    ];
    let nginx = Nginx::start_http2(&lab.backends[0], "b1", &at[..1])?;
    let nghttpd = Http2::nghttpd(&lab.backends[1], at[1])?;
    fs::write(nghttpd.file("hello"), "hello\n")?;
    let http = "type = \"http\"\npath = \"/healthz\"";
    let mut body = pool("nginx", &at[0].to_string(), http);
    body += &pool(
        "nghttpd",
        &at[1].to_string(),
        "type = \"http\"\npath = \"/hello\"",
    );
    let listen = |port| vec![vip(Family::V4, port).to_string()];
    body += &service("nginx", "http", &listen(80), "nginx", "");
    body += &service("nghttpd", "http", &listen(81), "nghttpd", "");
    let weir = start(&lab, body)?;

    let (nginx_at, nghttpd_at) = (vip(Family::V4, 80), vip(Family::V4, 81));
    let answer = weir.with_log(curl::get(&lab.client, &url(nginx_at, "/"), &[]))?;
    assert_eq!((answer.status, answer.who().as_str()), (200, "b1"));
    let missing = weir.with_log(curl::get(&lab.client, &url(nginx_at, "/status/404"), &[]))?;
    assert_eq!(missing.status, 404);

    // A body each way, larger than any window.
    let (sent, received) = (scratch.join("sent"), scratch.join("received"));
    write_noise(&sent, 20_000_003, 11)?;
    weir.with_log(curl::upload(
        &lab.client,
        &sent,
        &url(nginx_at, "/files/noise"),
        &[],
    ))?;
    same_bytes(&sent, &nginx.file("noise"))?;
    weir.with_log(curl::download(
        &lab.client,
        &url(nginx_at, "/files/noise"),
        &received,
    ))?;
    same_bytes(&sent, &received)?;

    // Trailers, which curl tells with the head.
    let head = scratch.join("head");
    let dump = head.display().to_string();
    let hello = weir.with_log(curl::get(&lab.client, &url(nghttpd_at, "/hello"), &["-D", &dump]))?;
    assert_eq!(hello.status, 200);
    assert!(hello.text().starts_with("hello\n"), "{}", hello.text());
    let told = fs::read_to_string(&head)?;
    assert!(told.contains("x-trailer: nghttpd"), "{told}");
    Ok(())
}

/// A gRPC server: messages, their status in trailers, and one that fails.
#[test]
fn a_grpc_server() -> Result<()> {
    let lab = Lab::unique(1)?;
    let scratch = Scratch::new()?;
    let at = backend(Family::V4, 0, 50_051);
    let _server = Http2::grpc(&lab.backends[0], at.parse()?, None)?;
    let mut body = pool("grpc", &at, "type = \"tcp\"");
    body += &service("grpc", "http", &[vip(Family::V4, 80).to_string()], "grpc", "");
    let weir = start(&lab, body)?;
    // A message of gRPC: not compressed, and its length in front.
    let message = scratch.write("message", b"\0\0\0\0\x05hello")?;
    let data = format!("@{}", message.display());
    let head = scratch.join("head");
    let dump = head.display().to_string();
    let call = |method: &str| {
        let args = [
            "-H",
            "Content-Type: application/grpc",
            "-H",
            "TE: trailers",
            "--data-binary",
            &data,
            "-D",
            &dump,
        ];
        let target = url(vip(Family::V4, 80), &format!("/echo.Echo/{method}"));
        weir.with_log(curl::get(&lab.client, &target, &args))
    };
    let echoed = call("Unary")?;
    assert_eq!(echoed.status, 200);
    assert!(echoed.body.starts_with(b"\0\0\0\0\x05hello"), "{}", echoed.text());
    let told = fs::read_to_string(&head)?;
    assert!(
        told.contains("grpc-status: 0") && told.contains("x-from: grpc"),
        "{told}"
    );
    let failed = call("Fail")?;
    let told = fs::read_to_string(&head)?;
    assert_eq!(failed.status, 200);
    assert!(
        told.contains("grpc-status: 5") && told.contains("no such thing"),
        "{told}"
    );
    Ok(())
}

/// A gRPC client and a gRPC server, HTTP/2 on both sides: streams in both directions at once, many calls, errors. Without
/// TLS, and with it on both sides.
#[test]
fn grpc_from_end_to_end() -> Result<()> {
    let lab = Lab::unique(1)?;
    let scratch = Scratch::new()?;
    let [plain, secret] = [50_051, 50_052].map(|port| backend(Family::V4, 0, port));
    let ours = self_signed(&scratch, "weir.pem", &["grpc.test"], P256)?;
    let authority = Authority::new(&scratch, "authority")?;
    let theirs = authority.issue(&scratch, "server.pem", "/CN=server", "server.test")?;
    let _plain = Http2::grpc(&lab.backends[0], plain.parse()?, None)?;
    let _secret = Http2::grpc(&lab.backends[0], secret.parse()?, Some(&theirs))?;
    let mut body = pool("plain", &plain, "type = \"tcp\"");
    body += &pool("secret", &secret, "type = \"tcp\"").replace("\"h2c\"", "\"h2\"");
    body += &format!(
        "[pools.secret.tls]\nca = \"{}\"\nserver_name = \"server.test\"\n",
        authority.certificate()
    );
    let tls = format!(
        "\n[services.secret.tls]\ncertificates = [\"{}\"]\n",
        ours.display()
    );
    for (name, port, more) in [("plain", 80, ""), ("secret", 443, tls.as_str())] {
        let listen = Family::ALL.map(|family| vip(family, port).to_string());
        body += &service(name, "http", &listen, name, more);
    }
    let weir = start(&lab, body)?;
    for family in Family::ALL {
        weir.with_log(http2::grpc_client(&lab.client, vip(family, 80), None))?;
        let trusted = Some((ours.as_path(), "grpc.test"));
        weir.with_log(http2::grpc_client(&lab.client, vip(family, 443), trusted))?;
    }
    Ok(())
}

/// curl, nghttp and h2load, at once in HTTP/2 and by an upgrade, before backends of either version.
#[test]
fn clients_of_http2() -> Result<()> {
    let lab = Lab::unique(2)?;
    let at: [SocketAddr; 2] = [
        backend(Family::V4, 0, 81).parse()?,
        backend(Family::V4, 1, 80).parse()?,
    ];
    let _new = Nginx::start_http2(&lab.backends[0], "h2", &at[..1])?;
    let _old = Nginx::start(&lab.backends[1], "h1", &at[1..])?;
    let check = "type = \"http\"\npath = \"/healthz\"";
    let mut body = pool("new", &at[0].to_string(), check);
    body += &pool("old", &at[1].to_string(), check).replace("protocol = \"h2c\"\n", "");
    for (name, port) in [("new", 80), ("old", 81)] {
        let listen = Family::ALL.map(|family| vip(family, port).to_string());
        body += &service(name, "http", &listen, name, "");
    }
    let weir = start(&lab, body)?;
    for (who, port) in [("h2", 80), ("h1", 81)] {
        for family in Family::ALL {
            let target = vip(family, port);
            for how in ["--http2-prior-knowledge", "--http2"] {
                let args = [how, "-o", "-", "-w", "version %{http_version}"];
                let answer = weir.with_log(curl::get(&lab.client, &url(target, "/"), &args))?;
                assert_eq!((answer.status, answer.who().as_str()), (200, who), "{how}");
                assert!(answer.text().ends_with("version 2"), "{how}: {}", answer.text());
            }
            for upgrade in [false, true] {
                let paths = ["/?1", "/?2", "/?3"];
                let text = weir.with_log(http2::nghttp(&lab.client, target, &paths, upgrade))?;
                assert_eq!(text.matches(who).count(), 3, "{upgrade}: {text}");
            }
        }
        let answered = weir.with_log(http2::h2load(&lab.client, vip(Family::V4, port), 4000, 8, 32))?;
        assert_eq!(answered, 4000, "{who}");
    }
    Ok(())
}
