//! The sections of virtual routers.

use super::Section;

/// `[vrrp.NAME]`
pub static VRRP: Section = Section {
    heading: "vrrp.NAME",
    keys: &[
        "routers",
        "priority",
        "interval",
        "preempt",
        "lease",
        "announce",
        "authentication",
        "demote_on",
        "mac",
        "shares",
    ],
    later: &[
        ("id", "write it into an element of `routers`"),
        ("interface", "write it into an element of `routers`"),
        ("addresses", "write them into an element of `routers`"),
        (
            "state",
            "the boxes find out who is master: the one of the greatest `priority` that nothing speaks against",
        ),
        ("virtual_mac", "write mac = \"virtual\""),
    ],
};

/// An element of `vrrp.NAME.routers`.
pub static VRRP_ROUTER: Section = Section {
    heading: "vrrp.NAME.routers",
    keys: &[
        "interface",
        "id",
        "addresses",
        "sources",
        "peers",
        "checksum",
        "version2",
    ],
    later: &[],
};

/// An element of `vrrp.NAME.shares`.
pub static VRRP_SHARE: Section = Section {
    heading: "vrrp.NAME.shares",
    keys: &["id", "priority"],
    later: &[],
};

/// `vrrp.NAME.routers.version2`
pub static VRRP_VERSION2: Section = Section {
    heading: "vrrp.NAME.routers.version2",
    keys: &["password"],
    later: &[],
};

/// `vrrp.NAME.preempt`
pub static VRRP_PREEMPT: Section = Section {
    heading: "vrrp.NAME.preempt",
    keys: &["delayed"],
    later: &[],
};

/// `[vrrp.NAME.announce]`
pub static VRRP_ANNOUNCE: Section = Section {
    heading: "vrrp.NAME.announce",
    keys: &["count", "spacing", "refresh"],
    later: &[],
};

/// `[vrrp.NAME.authentication]`
pub static VRRP_AUTHENTICATION: Section = Section {
    heading: "vrrp.NAME.authentication",
    keys: &["mode", "keys", "sign_with"],
    later: &[("password", "put a key into a file, and name that in `keys`")],
};

/// An element of `vrrp.NAME.authentication.keys`.
pub static VRRP_KEY: Section = Section {
    heading: "vrrp.NAME.authentication.keys",
    keys: &["id", "file"],
    later: &[],
};

/// An element of `vrrp.NAME.demote_on`.
pub static VRRP_DEMOTION: Section = Section {
    heading: "vrrp.NAME.demote_on",
    keys: &["service", "pool", "link", "file", "by"],
    later: &[("script", "have what runs it make and remove a `file`")],
};
