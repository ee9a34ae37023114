//! Services against pools and the node.

use weir_config::{Tunables, tunables::Origin};

use crate::{check, resolve, with};

#[test]
fn each_has_its_line() {
    check(
        r#"[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
"#,
        &[
            r#"3:8: services.www.mode is "l4", but node.xdp is "off"; write xdp = "native" or "generic" under [node], or mode = "tcp""#,
        ],
    );
    check(
        r#"[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "10.0.0.11:80" }]
[node]
xdp = "native"
"#,
        &[
            r#"8:1: node.xdp is native, but node.interfaces names no interface; write interfaces = ["eth0"] under [node], or xdp = "off" for a relay without XDP"#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["127.0.0.1:80", "0.0.0.0:80", "[::]:80"]
mode = "l4"
pool = "web"
"#,
        &[
            r#"4:11: services.www.listen is 127.0.0.1, a loopback address, and packets for it never reach XDP; write an address that clients reach from outside, or mode = "tcp""#,
            r"4:11: services.www listens on 127.0.0.1:80/tcp, and services.www in line 4 on 0.0.0.0:80/tcp: one of them is every address; give one of them another address or port",
            r#"4:27: services.www.listen is 0.0.0.0, every address, and packets for it never reach XDP; write an address that clients reach from outside, or mode = "tcp""#,
            r#"4:41: services.www.listen is ::, every address, and packets for it never reach XDP; write an address that clients reach from outside, or mode = "tcp""#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["[2001:db8::10]:80", "[2001:db8::11]:80", "192.0.2.10:80"]
mode = "l4"
pool = "web"
"#,
        &[
            r"4:11: services.www.listen is IPv6, but pool `web` has no IPv6 backend, and nat keeps the family; add an IPv6 backend, or remove this address",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "127.0.0.1:80" }]
"#,
        &[
            r#"6:8: services.www is l4, but pool `web` has 127.0.0.1:80, and packets can't be forwarded to loopback; write the backend's outside address, or mode = "tcp""#,
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.www]
listen = ["192.0.2.10:80"]
mode = "l4"
pool = "web"
[pools.web]
backends = [{ address = "192.0.2.10:80" }]
"#,
        &[
            r"6:8: services.www listens on 192.0.2.10:80, which is a backend of its own pool `web`; write the backend's own address and port",
        ],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = "web"
[pools.web]
backends = [{ address = "127.0.0.1:8080" }]
"#,
        &[
            r"4:8: services.www listens on 127.0.0.1:8080, which is a backend of its own pool `web`; write the backend's own address and port",
        ],
    );
    check(
        r#"[services.www]
listen = ["0.0.0.0:8080-8090"]
mode = "http"
pool = "web"
[pools.web]
backends = [{ address = "127.0.0.1:8085" }]
"#,
        &[
            r"4:8: services.www listens on 127.0.0.1:8085, which is a backend of its own pool `web`; write the backend's own address and port",
        ],
    );
}

#[test]
fn all_are_told_in_file_order() {
    check(
        r#"[node]
xdp = "off"
workers = 0
[pools.web]
backends = [{ address = "web1:80" }]
balanc = "x"
[services.www]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = "wbe"
[services.www.timeouts]
client = 5
"#,
        &[
            r"3:11: node.workers is 0, less than 1; write a number from 1 to 253",
            r"5:25: pools.web.backends.address has the host name `web1`, and this version resolves no names; write its address, as in 10.0.0.11:80",
            r"6:1: unknown key `balanc` in [pools.web]; did you mean `balance`?",
            r"10:8: services.www.pool is `wbe`, and there is no such pool; did you mean `web`?",
            r#"12:10: services.www.timeouts.client is a number without unit (5); write "5s" for seconds, or "5ms" for milliseconds"#,
        ],
    );
}

#[test]
fn a_ring_needs_a_slot_for_each_backend() {
    let backends = |n: usize| -> String {
        (0..n)
            .map(|i| format!("  {{ address = \"10.0.{}.{}:80\" }},\n", i / 200, i % 200 + 1))
            .collect()
    };
    let text = |n| {
        format!(
            "[node]\ninterfaces = [\"eth0\"]\n[services.www]\nlisten = [\"192.0.2.10:80\"]\nmode = \"l4\"\npool = \"web\"\n\
             ring_size = 251\n[pools.web]\nbackends = [\n{}]\n",
            backends(n)
        )
    };
    assert!(resolve(&text(251)).is_ok());
    check(
        &text(252),
        &[
            "6:8: services.www has a ring of 251 slots for 252 backends; write a ring_size of at least a hundred times the backends",
        ],
    );
}

#[test]
fn services_and_backends_end_where_their_tables_do() {
    let mut tunables = Tunables::default();
    let mut set = |name, value| tunables.set(name, value, Origin::Runtime).map(|_| ()).unwrap();
    set("weir.l4.services", "2");
    set("weir.l4.backends", "3");
    let pool = |name: &str, n: usize| {
        let backends: Vec<_> = (1..=n)
            .map(|i| format!("{{ address = \"10.0.0.{i}:80\" }}"))
            .collect();
        format!("[pools.{name}]\nbackends = [{}]\n", backends.join(", "))
    };
    let service = |name: &str, address: &str, mode: &str, pool: &str| {
        format!("[services.{name}]\nlisten = [\"{address}:80\"]\nmode = \"{mode}\"\npool = \"{pool}\"\n")
    };
    // What is not virtual, what is relayed, and what is shared takes no room.
    let good = "[node]\ninterfaces = [\"eth0\"]\n".to_owned()
        + &pool("a", 3)
        + &pool("b", 9)
        + &service("a", "192.0.2.1", "l4", "a")
        + &service("b", "192.0.2.2", "l4", "a")
        + &service("c", "127.0.0.1", "http", "b");
    assert!(with(&good, &tunables).is_ok());
    let bad = good + &service("d", "192.0.2.4", "l4", "b");
    assert_eq!(
        with(&bad, &tunables).unwrap_err().to_string(),
        "weir.toml:19:1: services.d is one service more with virtual addresses than the 2 of weir.l4.services; raise that \
         tunable, or remove some\n\
         weir.toml:22:8: all l4 services up to services.d have 12 backends, more than the 3 of weir.l4.backends; raise that \
         tunable, or remove some"
    );
}

#[test]
fn rings_end_where_their_table_does() {
    let mut tunables = Tunables::default();
    tunables
        .set("weir.l4.ring_slots", "2048", Origin::Runtime)
        .unwrap();
    let text = |second: &str| {
        format!(
            "[node]\ninterfaces = [\"eth0\"]\n\
             [services.a]\nlisten = [\"192.0.2.1:80\", \"[2001:db8::1]:80\"]\nmode = \"l4\"\npool = \"web\"\nring_size = 503\n\
             [services.b]\nlisten = [\"192.0.2.2:80\", \"192.0.2.2:81\"]\nmode = \"l4\"\npool = \"web\"\nring_size = {second}\n\
             [pools.web]\nbackends = [{{ address = \"10.0.0.11:80\" }}, {{ address = \"[2001:db8::11]:80\" }}]\n"
        )
    };
    assert!(with(&text("1039"), &tunables).is_ok());
    assert_eq!(
        with(&text("1049"), &tunables).unwrap_err().to_string(),
        "weir.toml:10:8: the rings of all l4 services up to services.b have 2055 slots, more than the 2048 of \
         weir.l4.ring_slots; raise that tunable (with room for the largest ring twice), or write a smaller ring_size"
    );
}
