//! `[sync]`

use crate::check;

/// A section with these lines from line 5 on, of a box that has what it needs.
#[track_caller]
fn sync(lines: &str, expected: &[&str]) {
    let node = "[node]\ninterfaces = [\"eth0\"]\nhash_key = \"00112233445566778899aabbccddeeff\"\n";
    check(&format!("{node}[sync]\n{lines}"), expected);
}

const KEYS: &str = "keys = [{ id = 1, file = \"/etc/weir/a\" }]\n";

#[test]
fn what_a_box_needs() {
    check(
        &format!(
            "[node]\ninterfaces = [\"eth0\"]\n[sync]\nlocal = \"10.0.0.1\"\npeers = [\"10.0.0.2\"]\n{KEYS}"
        ),
        &[
            "3:1: [sync] needs node.hash_key: without the same one on all boxes each places flows in its own way; draw one with \
             `openssl rand -hex 16`, and write it on all boxes",
        ],
    );
    check(
        &format!(
            "[node]\nxdp = \"off\"\nhash_key = \"00112233445566778899aabbccddeeff\"\n[sync]\nlocal = \"10.0.0.1\"\npeers = \
             [\"10.0.0.2\"]\n{KEYS}"
        ),
        &[
            "4:1: [sync] tells other boxes of flows that XDP forwards, but node.xdp is \"off\"; remove it, or let XDP be on",
        ],
    );
    sync(
        "",
        &[
            "4:1: [sync] has no `local`; write local = \"10.0.0.1\", this box's address towards the others",
            "4:1: [sync] has no `peers`; write peers = [\"10.0.0.2\"], the other box's address",
            "4:1: [sync] has no `keys`; write keys = [{ id = 1, file = \"/etc/weir/sync.key\" }], the same key on all boxes",
        ],
    );
}

#[test]
fn addresses() {
    sync(
        &format!("local = \"0.0.0.0\"\npeers = []\n{KEYS}"),
        &[
            "5:9: sync.local is 0.0.0.0, which is every address; write an address that one box alone has, on a link between the boxes",
            "6:9: sync.peers is empty; write the other box's address into it",
        ],
    );
    sync(
        &format!(
            "local = \"10.0.0.1\"\npeers = [\"10.0.0.1\", \"2001:db8::2\", \"10.0.0.2\", \"10.0.0.2:99\", \"box2\"]\n{KEYS}"
        ),
        &[
            "6:10: sync.peers is 10.0.0.1, which is this box's own; write the other box's address",
            "6:22: sync.peers is 2001:db8::2, of another family than `local`; write addresses of one family",
            "6:49: sync.peers is 10.0.0.2, which stands there already; remove one",
            "6:64: sync.peers has the host name `box2`, and this version resolves no names; write its address, as in 10.0.0.11:80",
        ],
    );
}

#[test]
fn keys() {
    let ends = "local = \"10.0.0.1\"\npeers = [\"10.0.0.2\"]\n";
    sync(
        &format!("{ends}keys = []\nrate = 1\n"),
        &[
            "7:8: sync.keys is empty; write { id = 1, file = \"/etc/weir/sync.key\" } into it",
            "8:8: sync.rate is 1, less than 10; write a number from 10 to 200000",
        ],
    );
    sync(
        &format!("{ends}keys = [{{ id = 1, file = \"/a\" }}, {{ id = 2, file = \"/b\" }}]\n"),
        &[
            "4:1: [sync] has several keys, and does not say which of them signs; write sign_with = 1, the id of one that all boxes have",
        ],
    );
    sync(
        &format!("{ends}keys = [{{ id = 1, file = \"/a\" }}, {{ id = 1, file = \"b\" }}]\nsign_with = 3\n"),
        &[
            "7:34: sync.keys has the id 1, which another key has; give each key an id of its own",
            "7:51: sync.keys.file is `b`, not an absolute path; begin it with /",
            "8:13: sync.sign_with is 3, and `keys` has none with that id; write the id of one of them",
        ],
    );
    sync(
        &format!("{ends}{KEYS}interface = \"eth1\"\n"),
        &["8:1: this version has no `interface` in [sync]; write this box's address on it into `local`"],
    );
}
