//! Listen addresses, and who else has them.

use crate::{check, listen};

#[test]
fn each_has_its_line() {
    listen(
        r#""127.0.0.1:8080/udp""#,
        &[
            r#"2:11: services.www.listen is UDP, which mode "http" does not relay; write mode = "l4", or listen on TCP"#,
        ],
    );
    check(
        r#"[services.www]
listen = ["127.0.0.1:8080/udp"]
mode = "tcp"
pool = "web"
"#,
        &[
            r#"2:11: services.www.listen is UDP, which mode "tcp" does not relay; write mode = "l4", or listen on TCP"#,
        ],
    );
    listen(
        r#""127.0.0.1:8080/sctp""#,
        &[
            r"2:11: services.www.listen has `sctp` for its protocol; write 127.0.0.1:8080/tcp or 127.0.0.1:8080/udp",
        ],
    );
    listen(
        r#""127.0.0.1:8090-8080""#,
        &[
            r"2:11: services.www.listen has its port range turned round (8090-8080); write 127.0.0.1:8080-8090",
        ],
    );
    listen(
        r#""[::1]:8090-8080""#,
        &[r"2:11: services.www.listen has its port range turned round (8090-8080); write [::1]:8080-8090"],
    );
    listen(
        r#""127.0.0.1:0""#,
        &[r"2:11: services.www.listen has port 0; write a port from 1 to 65535"],
    );
    listen(
        r#""127.0.0.1:0-10""#,
        &[r"2:11: services.www.listen has port 0; write a port from 1 to 65535"],
    );
    listen(
        r#""127.0.0.1:80-90-100""#,
        &[r"2:11: services.www.listen has `90-100` for its port; write a number from 1 to 65535"],
    );
    listen(
        r#""127.0.0.1:8000-9024""#,
        &[
            r"2:10: services.www.listen has 1025 ports, more than 1024; write smaller ranges, or divide it among several services",
        ],
    );
    listen(
        r#""127.0.0.1:8000-8999", "[::1]:8000-8024""#,
        &[
            r"2:10: services.www.listen has 1025 ports, more than 1024; write smaller ranges, or divide it among several services",
        ],
    );
    listen(
        r#"":8080""#,
        &[
            r"2:11: services.www.listen is `:8080`, without an address; write 0.0.0.0 before the colon for every IPv4 address of the box, [::] for every IPv6 address",
        ],
    );
    listen(
        r#""*:8080""#,
        &[
            r"2:11: services.www.listen is `*:8080`, without an address; write 0.0.0.0 before the colon for every IPv4 address of the box, [::] for every IPv6 address",
        ],
    );
    listen(
        r#""8080""#,
        &[
            r"2:11: services.www.listen is `8080`, without an address; write 0.0.0.0 before the colon for every IPv4 address of the box, [::] for every IPv6 address",
        ],
    );
    listen(
        r#""localhost:8080""#,
        &[
            r"2:11: services.www.listen has the host name `localhost`, and this version resolves no names; write its address, as in 10.0.0.11:8080",
        ],
    );
    listen(
        r#""127.0.0.1:*""#,
        &[
            r#"2:11: services.www.listen has `*` for its port, and mode "http" can't listen on every port; write a port from 1 to 65535, or a range as in 8000-8010"#,
        ],
    );
    listen(
        r#""127.0.0.1""#,
        &[r"2:11: services.www.listen is `127.0.0.1`, without a port; write 127.0.0.1:80 for port 80"],
    );
    listen(
        r#""::1:8080""#,
        &[r"2:11: services.www.listen is `::1:8080`, IPv6 without brackets; write [::1]:8080"],
    );
    listen(
        r#""224.0.0.1:80""#,
        &[
            r"2:11: services.www.listen has 224.0.0.1, which is a multicast address; write a unicast address, or 0.0.0.0 or [::] for every one of the box",
        ],
    );
    listen(
        r"8080",
        &[r"2:11: services.www.listen is an integer, not a string; put it in double quotes"],
    );
    check(
        r#"[services.a]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = "web"
[services.b]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = "web"
"#,
        &[
            r"6:11: services.b listens on 127.0.0.1:8080/tcp, as services.a in line 2 does; give one of them another address or port",
        ],
    );
    check(
        r#"[services.a]
listen = ["127.0.0.1:8080-8089"]
mode = "http"
pool = "web"
[services.b]
listen = ["127.0.0.1:8070-8085"]
mode = "http"
pool = "web"
"#,
        &[
            r"6:11: services.b listens on 127.0.0.1:8080/tcp, as services.a in line 2 does; give one of them another address or port",
        ],
    );
    check(
        r#"[services.a]
listen = ["127.0.0.1:8080-8089"]
mode = "http"
pool = "web"
[services.b]
listen = ["127.0.0.1:8084"]
mode = "tcp"
pool = "web"
"#,
        &[
            r"6:11: services.b listens on 127.0.0.1:8084/tcp, as services.a in line 2 does; give one of them another address or port",
        ],
    );
    listen(
        r#""127.0.0.1:8080", "127.0.0.1:8080""#,
        &[
            r"2:29: services.www listens on 127.0.0.1:8080/tcp twice (also in line 2); give one of them another address or port",
        ],
    );
    check(
        r#"[services.a]
listen = ["0.0.0.0:8080"]
mode = "http"
pool = "web"
[services.b]
listen = ["127.0.0.1:8080"]
mode = "http"
pool = "web"
"#,
        &[
            r"6:11: services.b listens on 127.0.0.1:8080/tcp, and services.a in line 2 on 0.0.0.0:8080/tcp: one of them is every address; give one of them another address or port",
        ],
    );
    check(
        r#"[services.a]
listen = ["192.0.2.10:8080"]
mode = "http"
pool = "web"
[services.b]
listen = ["0.0.0.0:8000-8999"]
mode = "http"
pool = "web"
"#,
        &[
            r"2:11: services.a listens on 192.0.2.10:8080/tcp, and services.b in line 6 on 0.0.0.0:8080/tcp: one of them is every address; give one of them another address or port",
        ],
    );
    check(
        r#"[services.a]
listen = ["[::]:8080"]
mode = "http"
pool = "web"
[services.b]
listen = ["[2001:db8::1]:8080"]
mode = "http"
pool = "web"
"#,
        &[
            r"6:11: services.b listens on [2001:db8::1]:8080/tcp, and services.a in line 2 on [::]:8080/tcp: one of them is every address; give one of them another address or port",
        ],
    );
    listen(
        r#""127.0.0.1:9180""#,
        &[
            r"2:11: services.www listens on 127.0.0.1:9180/tcp, as admin.http by default does; give one of them another address or port",
        ],
    );
    listen(
        r#""0.0.0.0:9180""#,
        &[
            r"2:11: services.www listens on 0.0.0.0:9180/tcp, and admin.http by default on 127.0.0.1:9180/tcp: one of them is every address; give one of them another address or port",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.a]
listen = ["192.0.2.10:53"]
mode = "l4"
pool = "web"
[services.b]
listen = ["192.0.2.10:53/tcp"]
mode = "tcp"
pool = "web"
"#,
        &[
            r"8:11: services.b listens on 192.0.2.10:53/tcp, as services.a in line 4 does; give one of them another address or port",
        ],
    );
    check(
        r#"[node]
interfaces = ["eth0"]
[services.a]
listen = ["127.0.0.1:80"]
mode = "http"
pool = "web"
[services.b]
listen = ["0.0.0.0:80"]
mode = "http"
pool = "web"
"#,
        &[
            r"4:11: services.a listens on 127.0.0.1:80/tcp, and services.b in line 8 on 0.0.0.0:80/tcp: one of them is every address; give one of them another address or port",
        ],
    );
}
