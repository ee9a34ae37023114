//! `[admin]`

use crate::check;

#[test]
fn each_has_its_line() {
    check(
        r#"[admin]
socket = "control.sock"
"#,
        &[r"2:10: admin.socket is `control.sock`, not an absolute path; begin it with /"],
    );
    check(
        r#"[admin]
socket = "/"
"#,
        &[r"2:10: admin.socket names a directory; name a socket in it, such as /run/weir/control.sock"],
    );
    check(
        r#"[admin]
socket = "/run/weir/relay.sock"
"#,
        &[
            r"2:10: admin.socket ends in relay.sock, which weir uses itself; write another name, such as control.sock",
        ],
    );
    check(
        r#"[admin]
socket = "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
"#,
        &[
            r"2:10: admin.socket makes a path of 108 bytes, and a socket's has room for 107; write a shorter path",
        ],
    );
    check(
        r#"[admin]
socket = "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/c"
"#,
        &[
            r"2:10: admin.socket makes a path of 113 bytes, and a socket's has room for 107; write a shorter path",
        ],
    );
    check(
        r#"[admin]
http = "127.0.0.1"
"#,
        &[r"2:8: admin.http is `127.0.0.1`, without a port; write 127.0.0.1:80 for port 80"],
    );
    check(
        r#"[admin]
http = "none"
"#,
        &[r#"2:8: admin.http is `none`; write an address and port, as in "127.0.0.1:9180", or "off""#],
    );
    check(
        r#"[admin]
http = "127.0.0.1:0"
"#,
        &[r"2:8: admin.http has port 0; write a port from 1 to 65535"],
    );
    check(
        r#"[admin]
http = "224.0.0.1:80"
"#,
        &[
            r#"2:8: admin.http has 224.0.0.1, which is a multicast address; write an address of this box, as in "127.0.0.1:9180", or "off""#,
        ],
    );
    check(
        r"[admin]
http = false
",
        &[r"2:8: admin.http is a boolean, not a string; put it in double quotes"],
    );
    check(
        r#"[admin]
https = "127.0.0.1:9180"
"#,
        &[r"2:1: unknown key `https` in [admin]; did you mean `http`?"],
    );
}
