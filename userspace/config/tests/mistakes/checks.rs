//! `[pools.NAME.check]`

use crate::health;

#[test]
fn each_has_its_line() {
    health(
        r#"interval = "1s"
"#,
        &[r#"3:1: [pools.web.check] has no `type`; write type = "tcp", "http" or "https""#],
    );
    health(
        r#"type = "icmp"
"#,
        &[
            r#"4:8: pools.web.check.type is `icmp`, which this version does not have; it has "tcp", "http" and "https""#,
        ],
    );
    health(
        r#"type = "htpt"
"#,
        &[r#"4:8: pools.web.check.type is `htpt`, which is none of its values; did you mean "http"?"#],
    );
    health(
        r#"type = "tls"
"#,
        &[
            r#"4:8: pools.web.check.type is `tls`, which this version does not have; it has "tcp", "http" and "https""#,
        ],
    );
    health(
        r#"type = "command"
command = "x"
"#,
        &[
            r#"4:8: pools.web.check.type is `command`, which this version does not have; it has "tcp", "http" and "https""#,
            r#"5:1: this version has no `command` in [pools.web.check]; check with type = "tcp" or "http" instead"#,
        ],
    );
    health(
        r#"type = "tcp"
path = "/"
status = ["2xx"]
method = "GET"
host = "a"
ca = "/x"
"#,
        &[
            r#"5:1: pools.web.check.path does not apply to a tcp check; remove it, or write type = "http""#,
            r#"6:1: pools.web.check.status does not apply to a tcp check; remove it, or write type = "http""#,
            r#"7:1: pools.web.check.method does not apply to a tcp check; remove it, or write type = "http""#,
            r#"8:1: pools.web.check.host does not apply to a tcp check; remove it, or write type = "http""#,
            r#"9:1: pools.web.check.ca does not apply to a tcp check; remove it, or write type = "https""#,
        ],
    );
    health(
        r#"type = "http"
verify = false
server_name = "x"
"#,
        &[
            r#"5:1: pools.web.check.verify does not apply to an http check; remove it, or write type = "https""#,
            r#"6:1: pools.web.check.server_name does not apply to an http check; remove it, or write type = "https""#,
        ],
    );
    health(
        r#"type = "tcp"
interval = 2
"#,
        &[
            r#"5:12: pools.web.check.interval is a number without unit (2); write "2s" for seconds, or "2ms" for milliseconds"#,
        ],
    );
    health(
        r#"type = "tcp"
interval = "2"
"#,
        &[r"5:12: pools.web.check.interval has no unit (`2`); write 2s for seconds, or 2ms for milliseconds"],
    );
    health(
        r#"type = "tcp"
interval = "0s"
timeout = "0ms"
"#,
        &[
            r#"5:12: pools.web.check.interval is zero; write at least "10ms""#,
            r#"6:11: pools.web.check.timeout is zero; write at least "1ms""#,
        ],
    );
    health(
        r#"type = "tcp"
interval = "1.5s"
"#,
        &[
            r"5:12: pools.web.check.interval is not a whole number of its unit (`1.5s`); use the smaller unit, such as 1500ms",
        ],
    );
    health(
        r#"type = "tcp"
interval = "2 sec"
"#,
        &[
            r"5:12: pools.web.check.interval has an unknown unit, ` sec`; the units are ms, s, m, h and d, without spaces",
        ],
    );
    health(
        r#"type = "tcp"
interval = "1ms"
"#,
        &[r#"5:12: pools.web.check.interval is 1ms, less than 10ms; write at least "10ms""#],
    );
    health(
        r#"type = "tcp"
interval = "2d"
"#,
        &[r#"5:12: pools.web.check.interval is 2d, more than 1d; write at most "1d""#],
    );
    health(
        r#"type = "tcp"
interval = "2s"
timeout = "2s"
"#,
        &[
            r"6:11: pools.web.check.timeout is 2s, not shorter than the interval (2s); shorten the timeout or lengthen the interval",
        ],
    );
    health(
        r#"type = "tcp"
timeout = "3s"
"#,
        &[
            r"5:11: pools.web.check.timeout is 3s, not shorter than the interval (2s by default); shorten the timeout or lengthen the interval",
        ],
    );
    health(
        r#"type = "tcp"
rise = 0
fall = 0
"#,
        &[
            r"5:8: pools.web.check.rise is 0, less than 1; write a number from 1 to 1000",
            r"6:8: pools.web.check.fall is 0, less than 1; write a number from 1 to 1000",
        ],
    );
    health(
        r#"type = "tcp"
jitter = 51
port = 0
"#,
        &[
            r"5:10: pools.web.check.jitter is 51, more than 50; write a number from 0 to 50",
            r"6:8: pools.web.check.port is 0, less than 1; write a number from 1 to 65535",
        ],
    );
    health(
        r#"type = "tcp"
jitter = "10%"
port = 70000
"#,
        &[
            r"5:10: pools.web.check.jitter is a string, not an integer; write a number without quotes or fraction",
            r"6:8: pools.web.check.port is 70000, more than 65535; write a number from 1 to 65535",
        ],
    );
    health(
        r#"type = "http"
path = "healthz"
"#,
        &[r"5:8: pools.web.check.path is `healthz`; begin it with /, as in /healthz"],
    );
    health(
        r#"type = "http"
path = "/a b"
"#,
        &[
            r"5:8: pools.web.check.path has the character ` `, which a request target can't have; percent-encode it, as in %20 for a space, or remove it",
        ],
    );
    health(
        r#"type = "http"
path = "/a\r\nX: y"
"#,
        &[
            r"5:8: pools.web.check.path has the character `\r`, which a request target can't have; percent-encode it, as in %20 for a space, or remove it",
        ],
    );
    health(
        r#"type = "http"
method = "get"
"#,
        &[r#"5:10: pools.web.check.method is `get`, and methods heed case; write "GET""#],
    );
    health(
        r#"type = "http"
method = "G T"
"#,
        &[r#"5:10: pools.web.check.method is `G T`, which is no method; write "GET" or "HEAD""#],
    );
    health(
        r#"type = "http"
method = "CONNECT"
"#,
        &[r#"5:10: pools.web.check.method is `CONNECT`, which opens a tunnel; write "GET" or "HEAD""#],
    );
    health(
        r#"type = "http"
host = "a b"
"#,
        &[
            r"5:8: pools.web.check.host is `a b`, which is no Host header; write a name or address, and a port if need be, as in www.example.org:8080",
        ],
    );
    health(
        r#"type = "http"
host = "a\r\nX: y"
"#,
        &[
            r"5:8: pools.web.check.host is `a\r\nX: y`, which is no Host header; write a name or address, and a port if need be, as in www.example.org:8080",
        ],
    );
    health(
        r#"type = "http"
host = "a:99999"
"#,
        &[
            r"5:8: pools.web.check.host is `a:99999`, which is no Host header; write a name or address, and a port if need be, as in www.example.org:8080",
        ],
    );
    health(
        r#"type = "http"
status = []
"#,
        &[
            r#"5:10: pools.web.check.status is empty, so that every check would fail; write status = ["2xx", "3xx"]"#,
        ],
    );
    health(
        r#"type = "http"
status = "2xx"
"#,
        &[r"5:10: pools.web.check.status is a string, not an array; put it in square brackets"],
    );
    health(
        r#"type = "http"
status = ["2xx", "6xx", "299-200", "99", "1xx", 200, "2xy"]
"#,
        &[
            r#"5:18: pools.web.check.status has `6xx`, which is no status from 200 to 599; write "2xx", "404" or "200-299""#,
            r#"5:25: pools.web.check.status has `299-200`, which is no status from 200 to 599; write "2xx", "404" or "200-299""#,
            r#"5:36: pools.web.check.status has `99`, which is no status from 200 to 599; write "2xx", "404" or "200-299""#,
            r#"5:42: pools.web.check.status has `1xx`, which is no status from 200 to 599; write "2xx", "404" or "200-299""#,
            r"5:49: pools.web.check.status is an integer, not a string; put it in double quotes",
            r#"5:54: pools.web.check.status has `2xy`, which is no status from 200 to 599; write "2xx", "404" or "200-299""#,
        ],
    );
    health(
        r#"type = "https"
verify = false
ca = "/etc/ca.pem"
"#,
        &[r"6:6: pools.web.check.ca has no effect with verify = false; remove one of the two"],
    );
    health(
        r#"type = "https"
ca = "ca.pem"
server_name = "10.0.0.1"
"#,
        &[
            r"5:6: pools.web.check.ca is `ca.pem`, not an absolute path; begin it with /",
            r"6:15: pools.web.check.server_name is `10.0.0.1`, which is no DNS name; write one as in www.example.org",
        ],
    );
    health(
        r#"type = "https"
verify = "no"
"#,
        &[r"5:10: pools.web.check.verify is a string, not a boolean; write true or false, without quotes"],
    );
    health(
        r#"type = "http"
headers = ["a"]
"#,
        &[
            r"5:1: this version has no `headers` in [pools.web.check]; `host` sets the one header that checks send",
        ],
    );
    health(
        r#"type = "http"
intervall = "2s"
"#,
        &[r"5:1: unknown key `intervall` in [pools.web.check]; did you mean `interval`?"],
    );
}
