//! What the relay's connections come from, beside `full-nat`: `relay_ports` and `close`.

use crate::check_as_it_stands;

const NODE: &str = "[node]\ninterfaces = [\"eth0\"]\nxdp = \"generic\"\n";

/// A pool with a source of these lines, from line 4 on, and services of these kinds that use it.
#[track_caller]
fn source(lines: &str, services: &[&str], expected: &[&str]) {
    let pool = "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\n[pools.web.source]\n";
    let mut text = format!("{pool}{lines}addresses = [\"10.0.0.5\"]\n{NODE}");
    for (nth, service) in services.iter().enumerate() {
        let (mode, forward) = match *service {
            "full-nat" => ("l4", "forward = \"full-nat\"\n"),
            mode => (mode, ""),
        };
        text += &format!(
            "[services.s{nth}]\nlisten = [\"192.0.2.10:{}\"]\nmode = \"{mode}\"\n{forward}pool = \"web\"\n",
            80 + nth
        );
    }
    if expected.is_empty() {
        crate::resolve(&text).unwrap_or_else(|report| panic!("{report}"));
    } else {
        check_as_it_stands(&text, expected);
    }
}

#[test]
fn each_plane_has_its_own_ports() {
    source(
        "relay_ports = \"40000-40999\"\nclose = \"reset\"\n",
        &["full-nat", "tcp"],
        &[],
    );
    source(
        "relay_ports = \"40000-40999\"\n",
        &["full-nat"],
        &[
            "4:15: pools.web.source.relay_ports has no effect: no service of mode \"http\" or \"tcp\" uses the pool; remove it",
        ],
    );
    source(
        "relay_ports = \"40000-40999\"\n",
        &["tcp", "http"],
        &[
            "4:15: pools.web.source.relay_ports is for pools that full-nat uses as well, and this one is the relay's alone; write \
             them as `ports`",
        ],
    );
    source(
        "relay_ports = [\"20000-20999\", \"40000-40999\"]\nports = \"20500-29999\"\n",
        &["full-nat", "http"],
        &[
            "4:15: pools.web.source.relay_ports has 20000-20999, and 20500-29999 are those of full-nat; write ports that full-nat \
             does not have, or other ones for it as `ports`",
        ],
    );
    // What full-nat has by default.
    source(
        "relay_ports = \"32000-40000\"\n",
        &["full-nat", "http"],
        &[
            "4:15: pools.web.source.relay_ports has 32000-40000, and 1024-32767 are those of full-nat; write ports that full-nat \
             does not have, or other ones for it as `ports`",
        ],
    );
}

#[test]
fn what_is_no_range_is_told() {
    for (ports, told) in [
        (
            "\"80-90\"",
            "begins with 80, and ports below 1024 belong to services; write \"1024-32767\", for example",
        ),
        (
            "\"40999-40000\"",
            "is turned round (40999-40000); write 40000-40999",
        ),
        (
            "\"many\"",
            "has `many` for its port; write a number from 1 to 65535",
        ),
        (
            "[]",
            "is empty; write a range, as in \"20000-29999\", or leave it out",
        ),
        ("40000", "is an integer, not a string; put it in double quotes"),
    ] {
        source(
            &format!("relay_ports = {ports}\n"),
            &["full-nat", "http"],
            &[&format!("4:15: pools.web.source.relay_ports {told}")],
        );
    }
    source(
        "relay_ports = [\"40000-40999\", \"40500-41000\"]\n",
        &["full-nat", "http"],
        &[
            "4:31: pools.web.source.relay_ports has 40500-41000, which overlaps 40000-40999; write ranges that have no port in \
             common",
        ],
    );
}

#[test]
fn an_end_is_one_of_two() {
    source("close = \"fin\"\n", &["tcp"], &[]);
    source(
        "close = \"rst\"\n",
        &["tcp"],
        &["4:9: pools.web.source.close is `rst`, which is none of its values; did you mean \"reset\"?"],
    );
    source(
        "close = true\n",
        &["tcp"],
        &["4:9: pools.web.source.close is a boolean, not a string; write \"fin\" or \"reset\""],
    );
    source(
        "close = \"reset\"\n",
        &["full-nat"],
        &[
            "4:1: pools.web.source.close has no effect: no service of mode \"http\" or \"tcp\" uses the pool; remove it",
        ],
    );
}
