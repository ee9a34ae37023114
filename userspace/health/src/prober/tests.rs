//! Whole probes against servers in this process.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use weir_core::plan::TlsCheck;

use super::*;

/// Enough for anything that is to end by itself.
const LONG: Duration = Duration::from_secs(20);
/// For what is to run out of time.
const SHORT: Duration = Duration::from_millis(250);
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that does this with every connection.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    ip: IpAddr,
    each: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    address
}

/// Reads up to the empty line: the request.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = vec![];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap() == 0 {
            break;
        }
    }
    String::from_utf8(request).unwrap()
}

/// A server that answers every request with this, and closes.
async fn answers(ip: IpAddr, answer: &'static [u8]) -> SocketAddr {
    serve(ip, move |mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(answer).await.unwrap();
    })
    .await
}

/// Keeps a connection without a word until the client goes.
async fn keep(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

fn http() -> HttpCheck {
    HttpCheck {
        protocol: HttpProtocol::Http1,
        tls: None,
        method: "GET".into(),
        path: "/healthz".into(),
        host: None,
        status: vec![(200, 299)],
    }
}

async fn probe(target: SocketAddr, kind: &CheckKind, timeout: Duration) -> Outcome {
    let result = Prober::new().probe(target, kind, timeout).await;
    let in_time = result.took < timeout + LONG;
    assert!(in_time, "{result:?}");
    if matches!(result.outcome, Outcome::Failed(Failure::Timeout(_))) {
        assert!(result.took >= timeout, "{result:?}");
    }
    result.outcome
}

async fn probe_http(target: SocketAddr, check: HttpCheck) -> Outcome {
    probe(target, &CheckKind::Http(check), LONG).await
}

fn failed(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        Outcome::Passed => panic!("passed"),
    }
}

/// An address that refuses: bound, so that nobody else takes it, but not listening. As long as the socket lives.
fn refusing() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((V4, 0)).into()).unwrap();
    (socket.local_addr().unwrap().as_socket().unwrap(), socket)
}

/// An address that does not answer to SYN: its accept queue is full. As long as the sockets live.
fn mute() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((V4, 0)).into()).unwrap();
    listener.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sockets = vec![listener];
    for _ in 0..64 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let full = socket.connect_timeout(&address, SHORT).is_err();
        sockets.push(socket);
        if full {
            return (address.as_socket().unwrap(), sockets);
        }
    }
    panic!("the accept queue does not fill");
}

#[tokio::test]
async fn tcp_passes_on_both_families() {
    for ip in [V4, V6] {
        let target = serve(ip, keep).await;
        assert_eq!(
            probe(target, &CheckKind::Tcp, LONG).await,
            Outcome::Passed,
            "{target}"
        );
    }
}

#[tokio::test]
async fn tcp_leaves_by_reset() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let target = serve(V4, move |mut stream| {
        let sender = sender.clone();
        async move {
            sender
                .send(stream.read(&mut [0; 1]).await.map_err(|e| e.kind()))
                .unwrap()
        }
    })
    .await;
    assert_eq!(probe(target, &CheckKind::Tcp, LONG).await, Outcome::Passed);
    assert_eq!(seen.recv().await, Some(Err(ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn what_is_asked_for_is_said_first() {
    for (version, header) in [
        (Version::V1, b"PROXY UNKNOWN\r\n".as_slice()),
        (Version::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ] {
        let (sender, mut seen) = mpsc::unbounded_channel();
        let address = serve(V4, move |mut stream| {
            let sender = sender.clone();
            async move {
                let mut first = vec![0; header.len()];
                stream.read_exact(&mut first).await.unwrap();
                let mut rest = [0; 5];
                // A check of type tcp ends in order: a reset could destroy the header.
                let read = stream.read(&mut rest).await.unwrap();
                stream.write_all(OK).await.unwrap();
                sender.send((first, rest.get(..read).unwrap().to_vec())).unwrap();
            }
        })
        .await;
        let target = Target {
            from: Vec::new(),
            interface: None,
            address,
            proxy: Some(version),
        };
        for (kind, then) in [
            (CheckKind::Tcp, b"".as_slice()),
            (CheckKind::Http(http()), b"GET /"),
        ] {
            let result = Prober::new().probe(target.clone(), &kind, LONG).await;
            assert_eq!(result.outcome, Outcome::Passed);
            assert_eq!(seen.recv().await, Some((header.to_vec(), then.to_vec())));
        }
    }
}

#[tokio::test]
async fn refused() {
    let (target, _socket) = refusing();
    for kind in [CheckKind::Tcp, CheckKind::Http(http())] {
        assert_eq!(
            probe(target, &kind, LONG).await,
            Outcome::Failed(Failure::Refused)
        );
    }
}

/// TCP to the broadcast address: the kernel refuses to route it, nothing is sent.
#[tokio::test]
async fn unreachable_with_the_systems_words() {
    let target = SocketAddr::from(([255, 255, 255, 255], 80));
    let failure = failed(probe(target, &CheckKind::Tcp, LONG).await);
    let expected = std::io::Error::from_raw_os_error(101).to_string();
    assert_eq!(failure, Failure::Unreachable(expected));
}

#[tokio::test]
async fn timeout_in_each_phase() {
    let (mute, _sockets) = mute();
    let silent = serve(V4, keep).await;
    let https = HttpCheck {
        tls: Some(unverified()),
        ..http()
    };
    for (target, kind, phase) in [
        (mute, CheckKind::Tcp, Phase::Connect),
        (mute, CheckKind::Http(http()), Phase::Connect),
        (mute, CheckKind::Http(https.clone()), Phase::Connect),
        (silent, CheckKind::Http(https), Phase::Tls),
        (silent, CheckKind::Http(http()), Phase::Response),
    ] {
        assert_eq!(
            probe(target, &kind, SHORT).await,
            Outcome::Failed(Failure::Timeout(phase)),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn a_slow_answer_does_not_stretch_the_timeout() {
    let target = serve(V4, |mut stream| async move {
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        for byte in b"HTTP/1.1 200 OK\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            pause.tick().await;
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    })
    .await;
    let outcome = probe(target, &CheckKind::Http(http()), SHORT).await;
    assert_eq!(outcome, Outcome::Failed(Failure::Timeout(Phase::Response)));
}

#[tokio::test]
async fn statuses_are_judged() {
    for (answer, ranges, outcome) in [
        (OK, vec![(200, 299)], Outcome::Passed),
        (
            b"HTTP/1.1 503 x\r\n\r\n",
            vec![(200, 299), (300, 399)],
            Outcome::Failed(Failure::Status(503)),
        ),
        (
            b"HTTP/1.1 302 x\r\n\r\n",
            vec![(200, 299), (300, 399)],
            Outcome::Passed,
        ),
        (
            b"HTTP/1.1 302 x\r\n\r\n",
            vec![(200, 299)],
            Outcome::Failed(Failure::Status(302)),
        ),
        (b"HTTP/1.1 401 x\r\n\r\n", vec![(401, 401)], Outcome::Passed),
        (
            b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            vec![(200, 200)],
            Outcome::Passed,
        ),
    ] {
        for ip in [V4, V6] {
            let target = answers(ip, answer).await;
            assert_eq!(
                probe_http(
                    target,
                    HttpCheck {
                        status: ranges.clone(),
                        ..http()
                    }
                )
                .await,
                outcome
            );
        }
    }
}

#[tokio::test]
async fn the_request_arrives() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let target = serve(V6, move |mut stream| {
        let sender = sender.clone();
        async move {
            sender.send(read_request(&mut stream).await).unwrap();
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    assert_eq!(probe_http(target, http()).await, Outcome::Passed);
    let expected = format!(
        "GET /healthz HTTP/1.1\r\nHost: {target}\r\nUser-Agent: weir-health/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(seen.recv().await, Some(expected));
}

/// A body without end does not keep the probe, and the probe does not keep the connection.
#[tokio::test]
async fn bodies_are_not_read() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let target = serve(V4, move |mut stream| {
        let sender = sender.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
            sender.send(()).unwrap();
        }
    })
    .await;
    assert_eq!(probe_http(target, http()).await, Outcome::Passed);
    assert_eq!(tokio::time::timeout(LONG, seen.recv()).await, Ok(Some(())));
}

#[tokio::test]
async fn closed_in_the_response() {
    let silent = serve(
        V4,
        |mut stream| async move { drop(read_request(&mut stream).await) },
    )
    .await;
    let half = answers(V4, b"HTTP/1.1 200 OK\r\nA: b").await;
    let reset = serve(V4, |mut stream| async move {
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    for (target, words) in [
        (silent, "end before an answer".to_owned()),
        (half, "end within the head".to_owned()),
        (reset, std::io::Error::from_raw_os_error(104).to_string()),
    ] {
        let failure = failed(probe_http(target, http()).await);
        assert_eq!(failure, Failure::Closed(Phase::Response, words));
    }
}

#[tokio::test]
async fn no_http() {
    let garbage = serve(V4, |mut stream| async move {
        // Unasked, as such servers do.
        stream.write_all(b"220 mail.example.com ESMTP\r\n").await.unwrap();
        keep(stream).await;
    })
    .await;
    let endless = serve(V4, |mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"A: b\r\n").await.is_ok() {}
    })
    .await;
    for (target, words) in [(garbage, "HTTP/"), (endless, "64 KiB")] {
        let failure = failed(probe_http(target, http()).await);
        assert!(
            matches!(&failure, Failure::Malformed(text) if text.contains(words)),
            "{failure:?}"
        );
    }
}

#[tokio::test]
async fn a_check_that_cannot_be_asked_is_our_fault() {
    let target = answers(V4, OK).await;
    let failure = failed(
        probe_http(
            target,
            HttpCheck {
                path: "/a b".into(),
                ..http()
            },
        )
        .await,
    );
    assert!(
        matches!(&failure, Failure::Internal(text) if text.contains("path")),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_timeout_of_any_length_will_do() {
    let target = serve(V4, keep).await;
    assert_eq!(
        Prober::new()
            .probe(target, &CheckKind::Tcp, Duration::MAX)
            .await
            .outcome,
        Outcome::Passed
    );
}

// TLS.

fn unverified() -> TlsCheck {
    TlsCheck {
        verify: false,
        ca: None,
        server_name: None,
    }
}

/// An authority, and the directory its certificate lies in.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new() -> Self {
        Self::named("an authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let it = Self {
            issuer,
            dir: TempDir::new().unwrap(),
        };
        std::fs::write(it.path(), it.issuer.pem()).unwrap();
        it
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn check(&self, server_name: Option<&str>) -> TlsCheck {
        TlsCheck {
            verify: true,
            ca: Some(self.path()),
            server_name: server_name.map(str::to_owned),
        }
    }

    /// A server's configuration for these names, changed as wished.
    fn server(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = leaf(names);
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        server_config(cert.der().clone(), &key)
    }
}

fn leaf(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn server_config(cert: rustls::pki_types::CertificateDer<'static>, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![cert], key).unwrap())
}

fn self_signed(names: &[&str]) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    server_config(leaf(names).self_signed(&key).unwrap().der().clone(), &key)
}

/// A server that answers each request over TLS.
async fn serve_tls(ip: IpAddr, config: Arc<ServerConfig>, answer: &'static [u8]) -> SocketAddr {
    serve(ip, move |stream| {
        let config = config.clone();
        async move {
            // Fails when the client does not like the certificate.
            if let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await {
                read_request(&mut stream).await;
                stream.write_all(answer).await.unwrap();
                // Whatever the client does after the head.
                let _ = stream.shutdown().await;
            }
        }
    })
    .await
}

async fn probe_https(target: SocketAddr, tls: TlsCheck) -> Outcome {
    probe_http(
        target,
        HttpCheck {
            tls: Some(tls),
            ..http()
        },
    )
    .await
}

/// Fails in TLS, with words that hold these.
async fn fails_in_tls(target: SocketAddr, tls: TlsCheck, words: &str) {
    let failure = failed(probe_https(target, tls).await);
    assert!(
        matches!(&failure, Failure::Tls(text) if text.contains(words)),
        "{failure:?}"
    );
}

#[tokio::test]
async fn https_with_an_authority_of_its_own() {
    let authority = Authority::new();
    let config = authority.server(&["www.example.com", "127.0.0.1", "::1"], |_| ());
    for ip in [V4, V6] {
        let target = serve_tls(ip, config.clone(), OK).await;
        // By name, and by address.
        for name in [Some("www.example.com"), None] {
            assert_eq!(
                probe_https(target, authority.check(name)).await,
                Outcome::Passed,
                "{target} {name:?}"
            );
        }
        // The Host names the server, too.
        let host = Some("www.example.com:8443".to_owned());
        let check = HttpCheck {
            tls: Some(authority.check(None)),
            host,
            ..http()
        };
        assert_eq!(probe_http(target, check).await, Outcome::Passed);
    }
    let target = serve_tls(V4, config, b"HTTP/1.1 500 x\r\n\r\n").await;
    let outcome = probe_https(target, authority.check(None)).await;
    assert_eq!(outcome, Outcome::Failed(Failure::Status(500)));
}

#[tokio::test]
async fn https_certificates_that_do_not_do() {
    let (authority, stranger) = (Authority::new(), Authority::named("a stranger"));
    let namesake = Authority::new();
    let right = serve_tls(V4, authority.server(&["www.example.com"], |_| ()), OK).await;
    fails_in_tls(
        right,
        authority.check(Some("other.example.com")),
        "certificate not valid for name",
    )
    .await;
    fails_in_tls(right, authority.check(None), "certificate not valid for name").await;
    fails_in_tls(right, stranger.check(Some("www.example.com")), "UnknownIssuer").await;
    fails_in_tls(right, namesake.check(Some("www.example.com")), "BadSignature").await;

    let old = authority.server(&["www.example.com"], |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1));
    });
    let old = serve_tls(V4, old, OK).await;
    fails_in_tls(
        old,
        authority.check(Some("www.example.com")),
        "certificate expired",
    )
    .await;

    let own = serve_tls(V4, self_signed(&["www.example.com"]), OK).await;
    fails_in_tls(own, authority.check(Some("www.example.com")), "UnknownIssuer").await;

    // Without `verify`, all of them do.
    for target in [right, old, own] {
        assert_eq!(probe_https(target, unverified()).await, Outcome::Passed);
    }
}

#[tokio::test]
async fn https_against_the_systems_roots() {
    let target = serve_tls(V4, self_signed(&["127.0.0.1"]), OK).await;
    let tls = TlsCheck {
        verify: true,
        ca: None,
        server_name: None,
    };
    let failure = failed(probe_https(target, tls).await);
    // A system may have none; then that is what is said, with the mend.
    let (cause, words) = if weir_tls::Roots::of_system().is_err() {
        ("internal", "install ca-certificates")
    } else {
        ("tls", "UnknownIssuer")
    };
    assert!(
        failure.cause() == cause && failure.to_string().contains(words),
        "{failure:?}"
    );
}

#[tokio::test]
async fn name_and_protocol_are_sent() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let mut config = ServerConfig::clone(&self_signed(&["x"]));
    // A server that would rather speak HTTP/2.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let target = serve(V4, move |stream| {
        let (config, sender) = (config.clone(), sender.clone());
        async move {
            let mut stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
            let connection = stream.get_ref().1;
            assert_eq!(connection.alpn_protocol(), Some(b"http/1.1".as_slice()));
            sender.send(connection.server_name().map(str::to_owned)).unwrap();
            read_request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    for (name, sent) in [(Some("www.example.com"), Some("www.example.com")), (None, None)] {
        let tls = TlsCheck {
            server_name: name.map(str::to_owned),
            ..unverified()
        };
        assert_eq!(probe_https(target, tls).await, Outcome::Passed);
        assert_eq!(seen.recv().await, Some(sent.map(str::to_owned)));
    }
}

#[tokio::test]
async fn plaintext_where_tls_was_expected() {
    let target = serve(V4, |mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        keep(stream).await;
    })
    .await;
    fails_in_tls(target, unverified(), "InvalidContentType").await;
}

#[tokio::test]
async fn tls_where_plaintext_was_expected() {
    let target = serve_tls(V4, self_signed(&["x"]), OK).await;
    let failure = failed(probe_http(target, http()).await);
    assert!(matches!(failure, Failure::Malformed(_)), "{failure:?}");
}

#[tokio::test]
async fn closed_in_the_handshake() {
    let target = serve(V4, |mut stream| async move {
        let _ = stream.read(&mut [0; 4096]).await;
    })
    .await;
    let failure = failed(probe_https(target, unverified()).await);
    assert!(matches!(failure, Failure::Closed(Phase::Tls, _)), "{failure:?}");
}

#[tokio::test]
async fn closed_after_the_handshake() {
    let config = self_signed(&["x"]);
    let target = serve(V4, move |stream| {
        let config = config.clone();
        async move {
            let mut stream = TlsAcceptor::from(config).accept(stream).await.unwrap();
            read_request(&mut stream).await;
        }
    })
    .await;
    let failure = failed(probe_https(target, unverified()).await);
    assert!(
        matches!(failure, Failure::Closed(Phase::Response, _)),
        "{failure:?}"
    );
}

#[tokio::test]
async fn bundles_that_cannot_be_used() {
    let authority = Authority::new();
    let target = serve_tls(V4, authority.server(&["127.0.0.1"], |_| ()), OK).await;
    let broken = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    for content in [
        None,
        Some(""),
        Some("no PEM"),
        Some("-----BEGIN CERTIFICATE-----\n!"),
        Some(broken),
    ] {
        match content {
            Some(content) => std::fs::write(authority.path(), content).unwrap(),
            None => std::fs::remove_file(authority.path()).unwrap(),
        }
        let failure = failed(probe_https(target, authority.check(None)).await);
        let path = authority.path().display().to_string();
        assert!(
            matches!(&failure, Failure::Internal(text) if text.contains(&path)),
            "{content:?}: {failure:?}"
        );
    }
}

#[tokio::test]
async fn a_replaced_bundle_is_noticed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let target = serve_tls(V4, authority.server(&["127.0.0.1"], |_| ()), OK).await;
    let kind = CheckKind::Http(HttpCheck {
        tls: Some(authority.check(None)),
        ..http()
    });
    let prober = Prober::new();
    for (bundle, passes) in [(&authority, true), (&other, false), (&authority, true)] {
        // As it is done: written beside, and renamed.
        let beside = authority.dir.path().join("new.pem");
        std::fs::write(&beside, bundle.issuer.pem()).unwrap();
        std::fs::rename(&beside, authority.path()).unwrap();
        for _ in 0..2 {
            let outcome = prober.probe(target, &kind, LONG).await.outcome;
            assert_eq!(outcome == Outcome::Passed, passes, "{outcome:?}");
        }
    }
}

/// A backend that speaks HTTP/2 alone, and answers with this.
async fn answers_in_http2(status: u16) -> SocketAddr {
    serve(V4, move |stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.method(), "HEAD");
            assert_eq!(request.uri(), "http://a.example/healthz");
            let response = ::http::Response::builder().status(status).body(()).unwrap();
            respond.send_response(response, true).unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn http2_without_tls() {
    let h2c = || HttpCheck {
        protocol: HttpProtocol::H2c,
        method: "HEAD".into(),
        host: Some("a.example".into()),
        ..http()
    };
    assert_eq!(
        probe_http(answers_in_http2(204).await, h2c()).await,
        Outcome::Passed
    );
    let outcome = probe_http(answers_in_http2(503).await, h2c()).await;
    assert_eq!(outcome, Outcome::Failed(Failure::Status(503)));
    // One that speaks HTTP/1.1 alone, one that hangs up, one that says nothing.
    let old = serve(V4, |mut stream| async move {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        keep(stream).await;
    })
    .await;
    let outcome = probe_http(old, h2c()).await;
    assert!(
        matches!(
            outcome,
            Outcome::Failed(Failure::Malformed(_) | Failure::Closed(..))
        ),
        "{outcome:?}"
    );
    let closes = serve(V4, |stream| async { drop(stream) }).await;
    let outcome = probe_http(closes, h2c()).await;
    assert!(
        matches!(outcome, Outcome::Failed(Failure::Closed(Phase::Response, _))),
        "{outcome:?}"
    );
    let silent = serve(V4, keep).await;
    let outcome = probe(silent, &CheckKind::Http(h2c()), SHORT).await;
    assert_eq!(outcome, Outcome::Failed(Failure::Timeout(Phase::Response)));
}
