//! WebSocket through the relay, with clients and a backend of another make (Python's websockets), handshakes looked at.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use weir_e2e_tests::{service, unchecked_pool};
use weir_harness::{
    Cmd, Netns, Process, Scratch, Weir, WeirConfig,
    certificate::{Authority, P256, self_signed},
    peer::echo,
    scratch, wait_until,
    weir::PATIENCE,
};

/// Debian's, which the package is for; another one may come first in `PATH`.
const PYTHON: &str = "/usr/bin/python3";

/// An echo that speaks the subprotocol `chat`, and says which one was agreed on; on another port over TLS.
const SERVER: &str = r#"
import asyncio, ssl, sys, websockets

async def serve(ws, path):
    await ws.send("agreed on %s at %s" % (ws.subprotocol, path))
    async for message in ws:
        await ws.send(message)

async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    options = dict(subprotocols=["chat"], max_size=None, ping_interval=0.2)
    async with websockets.serve(serve, "127.0.0.1", 8081, **options):
        async with websockets.serve(serve, "127.0.0.1", 8444, ssl=context, **options):
            print("ready", flush=True)
            await asyncio.Future()

asyncio.run(main())
"#;

/// Text and bytes of all sizes both ways, pings, and the closing handshake.
const CLIENT: &str = r#"
import asyncio, os, ssl, sys, websockets

async def main():
    context = None
    if sys.argv[1].startswith("wss:"):
        context = ssl.create_default_context(cafile=sys.argv[3])
    async with websockets.connect(sys.argv[1], subprotocols=sys.argv[2].split(","), max_size=None, ssl=context) as ws:
        greeting = await ws.recv()
        for size in (0, 1, 125, 126, 65535, 65536, 3 << 20):
            sent = os.urandom(size)
            await ws.send(sent)
            assert await ws.recv() == sent, size
        text = "ü" * 10000
        await ws.send(text)
        assert await ws.recv() == text
        await (await ws.ping())
        # Silent for longer than any time but the tunnel's.
        await asyncio.sleep(1.2)
        await ws.send("still")
        assert await ws.recv() == "still"
    print(ws.subprotocol, ws.close_code, greeting)

asyncio.run(main())
"#;

const PLAIN: &str = "ws://127.0.0.1:8000/room";

struct Place {
    scratch: Scratch,
    /// A certificate of weir's, and the authority of the backend's: both for `localhost`.
    ours: PathBuf,
    authority: Authority,
    _server: Process,
    netns: Netns,
}

fn place() -> Result<Place> {
    let netns = Netns::new(&scratch::unique())?;
    let scratch = Scratch::new()?;
    let file = scratch.write("server.py", SERVER)?;
    let ours = self_signed(&scratch, "weir.pem", &["localhost"], P256)?;
    let authority = Authority::new(&scratch, "authority")?;
    let theirs = authority.issue(&scratch, "server.pem", "/CN=server", "localhost")?;
    let cmd = Cmd::new(PYTHON).arg(file).arg(theirs).inside(&netns);
    let server = Process::start("websockets", &scratch, &cmd)?;
    wait_until(PATIENCE, "the backend listens", || {
        if server.stdout().contains("ready") {
            Ok(())
        } else {
            Err(server.stderr())
        }
    })?;
    Ok(Place {
        scratch,
        ours,
        authority,
        _server: server,
        netns,
    })
}

/// Port 8000 without TLS on either side, port 8443 with TLS on both.
fn config(place: &Place, websocket: &str) -> WeirConfig {
    let more = format!(
        "websocket = {websocket}\ntimeouts = {{ request_head = \"500ms\", client = \"500ms\", server = \"500ms\", keep_alive = \"500ms\" }}"
    );
    let (ours, authority) = (place.ours.display(), place.authority.certificate());
    let tls = format!("{more}\n[services.wss.tls]\ncertificates = [\"{ours}\"]\n");
    let body = unchecked_pool("ws", &[("127.0.0.1:8081".into(), 10)])
        + &service("ws", "http", &["127.0.0.1:8000".into()], "ws", &more)
        + &unchecked_pool("wss", &[("127.0.0.1:8444".into(), 10)])
        + &format!("[pools.wss.tls]\nca = \"{authority}\"\nserver_name = \"localhost\"\n")
        + &service("wss", "http", &["127.0.0.1:8443".into()], "wss", &tls);
    WeirConfig::relay_only(body, None)
}

fn client(place: &Place, url: &str, protocols: &str) -> Result<weir_harness::command::Output> {
    let file = place.scratch.write("client.py", CLIENT)?;
    Cmd::new(PYTHON)
        .arg(file)
        .args([url, protocols])
        .arg(&place.ours)
        .inside(&place.netns)
        .deadline(Duration::from_secs(60))
        .run()
}

#[test]
fn a_real_client_and_a_real_backend_agree() -> Result<()> {
    let place = place()?;
    let weir = Weir::start(
        &place.netns,
        config(&place, "{ strict = true, protocols = [\"chat\", \"v2\"] }"),
    )?;
    for url in [PLAIN, "wss://localhost:8443/room"] {
        let output = client(&place, url, "other,chat")?;
        let said = output.text();
        assert_eq!(
            said.trim(),
            "chat 1000 agreed on chat at /room",
            "{url}: {}",
            output.complaint()
        );
    }
    // None of those that may be had.
    let output = client(&place, PLAIN, "other")?;
    assert!(
        !output.status.success() && output.complaint().contains("HTTP 400"),
        "{}",
        output.complaint()
    );
    let ends = |reason: &str| {
        wait_until(PATIENCE, "it is counted", || {
            let sum = weir
                .metrics()
                .and_then(|m| m.sum("weir_relay_ends_total", &[("reason", reason)]));
            sum.ok().filter(|count| *count >= 1.0).ok_or("not yet")
        })
    };
    weir.with_log(ends("ok").map(|_| ()))?;
    weir.with_log(ends("client-bad-request").map(|_| ()))
}

#[test]
fn what_is_no_handshake_is_told_which_version_there_is() -> Result<()> {
    let place = place()?;
    let _weir = Weir::start(&place.netns, config(&place, "{ strict = true }"))?;
    let at: SocketAddr = "127.0.0.1:8000".parse().context("an address")?;
    let ask = |lines: &str| -> Result<String> {
        let mut stream = echo::connect(&place.netns, at)?;
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{lines}\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let old = ask("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n")?;
    assert!(
        old.starts_with("HTTP/1.1 426 ") && old.contains("\r\nSec-WebSocket-Version: 13\r\n"),
        "{old}"
    );
    let none = ask("Sec-WebSocket-Version: 13\r\n")?;
    assert!(none.starts_with("HTTP/1.1 400 "), "{none}");
    Ok(())
}
