//! `[node]`

use crate::check;

#[test]
fn each_has_its_line() {
    check(
        r"[node]
",
        &[
            r#"1:1: node.xdp is native, but node.interfaces names no interface; write interfaces = ["eth0"] under [node], or xdp = "off" for a relay without XDP"#,
        ],
    );
    check(
        r#"[nodes]
xdp = "off"
"#,
        &[r"1:2: unknown section `nodes` at the top of the file; did you mean `node`?"],
    );
    check(
        r#"[node]
xpd = "off"
"#,
        &[r"2:1: unknown key `xpd` in [node]; did you mean `xdp`?"],
    );
    check(
        r#"[node]
interface = ["eth0"]
"#,
        &[r"2:1: unknown key `interface` in [node]; did you mean `interfaces`?"],
    );
    check(
        r#"[node]
xdp = "generic"
interfaces = []
"#,
        &[
            r#"2:1: node.xdp is generic, but node.interfaces names no interface; write interfaces = ["eth0"] under [node], or xdp = "off" for a relay without XDP"#,
        ],
    );
    check(
        r#"[node]
xdp = "natvie"
"#,
        &[r#"2:7: node.xdp is `natvie`, which is none of its values; did you mean "native"?"#],
    );
    check(
        r#"[node]
xdp = "offload"
"#,
        &[
            r#"2:7: node.xdp is `offload`, which this version does not have; it has "native", "generic" and "off""#,
        ],
    );
    check(
        r#"[node]
xdp = "driver"
"#,
        &[r#"2:7: node.xdp is `driver`, which is none of its values; write "native", "generic" or "off""#],
    );
    check(
        r#"[node]
xdp = "off"
name = ""
"#,
        &[r"3:8: node.name is empty; write 1 to 255 letters, digits, dots, hyphens and underscores"],
    );
    check(
        r#"[node]
xdp = "off"
name = "edge 1"
"#,
        &[r"3:8: node.name is `edge 1`; write 1 to 255 letters, digits, dots, hyphens and underscores"],
    );
    check(
        r#"[node]
xdp = "off"
name = "é"
"#,
        &[r"3:8: node.name is `é`; write 1 to 255 letters, digits, dots, hyphens and underscores"],
    );
    check(
        r#"[node]
xdp = "off"
workers = 0
"#,
        &[r"3:11: node.workers is 0, less than 1; write a number from 1 to 253"],
    );
    check(
        r#"[node]
xdp = "off"
workers = 254
"#,
        &[r"3:11: node.workers is 254, more than 253; write a number from 1 to 253"],
    );
    check(
        r#"[node]
xdp = "off"
workers = -1
"#,
        &[r"3:11: node.workers is -1, less than 1; write a number from 1 to 253"],
    );
    check(
        r#"[node]
xdp = "off"
workers = 99999999999999999999
"#,
        &[r"3:11: node.workers is 99999999999999999999, more than 253; write a number from 1 to 253"],
    );
    check(
        r#"[node]
interfaces = ["eth0", "eth1", "eth0"]
"#,
        &[r"2:31: node.interfaces has `eth0` twice (first in line 2); remove one"],
    );
    check(
        r#"[node]
interfaces = ["eth 0", "a/b", "", "averyveryverylongname", "..", 3]
"#,
        &[
            r"2:15: node.interfaces has `eth 0`, which is no interface's name; write 1 to 15 characters without spaces, slashes and colons, as `ip link` shows them",
            r"2:24: node.interfaces has `a/b`, which is no interface's name; write 1 to 15 characters without spaces, slashes and colons, as `ip link` shows them",
            r"2:31: node.interfaces has ``, which is no interface's name; write 1 to 15 characters without spaces, slashes and colons, as `ip link` shows them",
            r"2:35: node.interfaces has `averyveryverylongname`, which is no interface's name; write 1 to 15 characters without spaces, slashes and colons, as `ip link` shows them",
            r"2:60: node.interfaces has `..`, which is no interface's name; write 1 to 15 characters without spaces, slashes and colons, as `ip link` shows them",
            r"2:66: node.interfaces is an integer, not a string; put it in double quotes",
        ],
    );
    check(
        r#"[node]
xdp = "off"
user = ""
pins = "weir"
"#,
        &[
            r"3:8: node.user is empty; name a user as in passwd(5)",
            r"4:8: node.pins is `weir`, not an absolute path; begin it with /",
        ],
    );
    check(
        r#"[node]
xdp = "off"
user = "-x"
pins = "/sys/../x"
"#,
        &[
            r"3:8: node.user is `-x`, which is no user's name; name a user as in passwd(5)",
            r"4:8: node.pins is `/sys/../x`, which goes up; write the path without ..",
        ],
    );
    check(
        r#"[node]
xdp = "off"
hash_key = "0011"
"#,
        &[
            r"3:12: node.hash_key is not 32 hexadecimal digits (4 characters); draw one with `openssl rand -hex 16`",
        ],
    );
    check(
        r#"[node]
xdp = "off"
hash_key = "zz112233445566778899aabbccddeeff"
"#,
        &[
            r"3:12: node.hash_key is not 32 hexadecimal digits (32 characters); draw one with `openssl rand -hex 16`",
        ],
    );
}
