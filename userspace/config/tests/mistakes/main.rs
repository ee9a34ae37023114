//! Every message: a file's text, and the exact lines that it gets.
//!
//! A text without `[pools…]` gets a good pool behind it, one without `[node]` gets `xdp = "off"`, so that each case
//! holds nothing but its mistake and every line stays where it is.

mod admin;
mod checks;
mod cross;
mod export;
mod forwarding;
mod headers;
mod interfaces;
mod keys_and_types;
mod listening;
mod node;
mod passthrough;
mod pools;
mod protection;
mod proxy;
mod rewriting;
mod routing;
mod services;
mod sources;
mod sync;
mod syntax;
mod tls;
mod transparent;
mod upstream;
mod vrrp;

use weir_config::{Facts, Report, Tunables, parse};
use weir_core::plan::Plan;

const POOL: &str = "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\n";
const NODE: &str = "[node]\nxdp = \"off\"\n";

/// The text, completed, gets these lines, each without the file's name.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let pool = if text.contains("pools") { "" } else { POOL };
    let node = if text.contains("[node") || text.contains("node =") {
        ""
    } else {
        NODE
    };
    check_as_it_stands(&format!("{text}{pool}{node}"), expected);
}

#[track_caller]
fn check_as_it_stands(text: &str, expected: &[&str]) {
    let report = match resolve(text) {
        Ok(_) => panic!("no mistake was found in\n{text}"),
        Err(report) => report.to_string(),
    };
    let expected: Vec<_> = expected.iter().map(|line| format!("weir.toml:{line}")).collect();
    assert_eq!(report, expected.join("\n"), "of\n{text}");
}

fn resolve(text: &str) -> Result<Plan, Report> {
    with(text, &Tunables::default())
}

fn with(text: &str, tunables: &Tunables) -> Result<Plan, Report> {
    let facts = Facts {
        hostname: "box".into(),
        runtime_dir: "/run/weir".into(),
    };
    parse("weir.toml", text, tunables, &facts)
}

/// An HTTP service with these lines from line 5 on.
#[track_caller]
fn http(lines: &str, expected: &[&str]) {
    let service = "[services.www]\nlisten = [\"127.0.0.1:8080\"]\nmode = \"http\"\npool = \"web\"\n";
    check(&format!("{service}{lines}"), expected);
}

/// An HTTP service with these addresses in line 2.
#[track_caller]
fn listen(addresses: &str, expected: &[&str]) {
    check(
        &format!("[services.www]\nlisten = [{addresses}]\nmode = \"http\"\npool = \"web\"\n"),
        expected,
    );
}

/// A pool with this one backend in line 2.
#[track_caller]
fn backend(address: &str, expected: &[&str]) {
    check(
        &format!("[pools.web]\nbackends = [{{ address = \"{address}\" }}]\n"),
        expected,
    );
}

/// A check with these lines from line 4 on.
#[track_caller]
fn health(lines: &str, expected: &[&str]) {
    check(&format!("{POOL}[pools.web.check]\n{lines}"), expected);
}
