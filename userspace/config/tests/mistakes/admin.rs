//! `[admin]`, `[access_log]`

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

#[test]
fn of_the_access_log() {
    check(
        r#"[access_log]
to = "journald"
"#,
        &[
            r#"2:6: access_log.to is `journald`; write "stdout", "stderr", "off", "syslog", or a file's absolute path"#,
        ],
    );
    for to in [
        "syslog:",
        "syslog:log.example:514",
        "syslog:192.0.2.1",
        "syslog:/dev/log,local0",
    ] {
        check(
            &format!("[access_log]\nto = \"{to}\"\nfacility = \"local1\"\n"),
            &[&format!(
                "2:6: access_log.to is `{to}`, which names no syslog daemon; write \"syslog\" for /dev/log, \"syslog:/PATH\" for another socket, or \"syslog:192.0.2.1:514\" for UDP"
            )],
        );
    }
    check(
        "[access_log]\nto = \"syslog\"\nfacility = \"local8\"\nsyslog_form = \"rfc3195\"\n",
        &[
            "3:12: access_log.facility is `local8`, which is none of its values; did you mean \"local0\"?",
            "4:15: access_log.syslog_form is `rfc3195`, which is none of its values; did you mean \"rfc3164\"?",
        ],
    );
    check(
        "[access_log]\nfacility = \"local1\"\n",
        &[
            "2:1: access_log.facility does not apply: the records go to no syslog daemon; remove it, or write to = \"syslog\"",
        ],
    );
    check(
        r#"[access_log]
to = "/var/log/../weir"
"#,
        &[r"2:6: access_log.to is `/var/log/../weir`, which goes up; write the path without .."],
    );
    check(
        r#"[access_log]
format = "clf"
"#,
        &[
            r#"2:10: access_log.format is `clf`, which is none of its values; write "human", "json" or "httplog""#,
        ],
    );
    check(
        r"[access_log]
null = 1
",
        &[r"2:8: access_log.null is an integer, not a boolean; write true or false, without quotes"],
    );
}
