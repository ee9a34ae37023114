//! `[node]` and `[admin]`: the box itself, and how operators reach weir.
//!
//! Owns their keys, ranges and defaults. What ties them to services is `cross.rs`.

mod gateways;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use weir_core::{
    ids::Interface,
    plan::{Admin, IpNet, Node, Tunnel, XdpMode},
};

use crate::{
    Facts, keys,
    net::{parse_network, parse_socket, unusable},
    reader::{Cx, Table, Value},
    words::quoted,
};

/// Name of the control socket by default, in the runtime directory.
const DEFAULT_SOCKET: &str = "control.sock";
/// Where metrics are served by default.
const DEFAULT_HTTP: &str = "127.0.0.1:9180";
/// The user of the unprivileged processes by default.
const DEFAULT_USER: &str = "nobody";
/// Where maps are pinned by default.
const DEFAULT_PINS: &str = "/sys/fs/bpf/weir";
const INTERFACE_MEND: &str =
    "write 1 to 15 characters without spaces, slashes and colons, as `ip link` shows them";
/// Names of what lies beside the control socket.
const BESIDE: [&str; 6] = [
    "vrrp.state",
    "relay.sock",
    "health.sock",
    "relay.pid",
    "health.pid",
    "health.json",
];
/// Room for a path in `sockaddr_un`, without the closing NUL.
const SOCKET_PATH: usize = 107;

/// `[node]` as far as it could be read.
#[derive(Debug)]
pub(crate) struct AskedNode {
    /// With defaults where the file is silent, or wrong.
    pub(crate) node: Node,
    /// None if `xdp` was wrong: nothing is then concluded from it.
    pub(crate) xdp: Option<XdpMode>,
    /// Whether `interfaces` names one, or is wrong itself.
    pub(crate) has_interfaces: bool,
    /// Whether `hash_key` stands there, whatever it says.
    pub(crate) has_hash_key: bool,
    /// Where `own_addresses` stands.
    pub(crate) own_addresses_at: Option<usize>,
    /// Whether `tunnel` is as it was meant.
    pub(crate) tunnel_read: bool,
    /// Where each of `gateways` stands.
    pub(crate) gateways_at: Vec<usize>,
    /// Where `xdp` stands, or the section, or the file's beginning.
    pub(crate) at: usize,
}

/// `[admin]` as far as it could be read.
#[derive(Debug)]
pub(crate) struct AskedAdmin {
    pub(crate) admin: Admin,
    /// Where `http` stands. None: it is the default.
    pub(crate) http_at: Option<usize>,
}

pub(crate) fn read_node(cx: &mut Cx, document: &Table<'_>, facts: &Facts) -> AskedNode {
    let value = document.get("node");
    let section = value.as_ref().and_then(|value| value.table(cx, &keys::NODE));
    // A section that can't be read, or was meant by another name, says nothing of what it leaves open.
    let unread = section
        .as_ref()
        .map_or_else(|| value.is_some() || document.meant("node"), |s| s.meant("xdp"));
    let get = |key| section.as_ref().and_then(|section| section.get(key));
    let name = match get("name") {
        Some(value) => value
            .string(cx)
            .filter(|name| check_name(cx, &value, name))
            .map(Into::into),
        None => default_name(cx, section.as_ref(), facts),
    };
    let interfaces = get("interfaces").map_or_else(|| Some(Vec::new()), |value| read_interfaces(cx, &value));
    let xdp_value = get("xdp");
    let xdp = match &xdp_value {
        None if unread => None,
        None => Some(XdpMode::Native),
        Some(value) => {
            let words = [
                ("native", XdpMode::Native),
                ("generic", XdpMode::Generic),
                ("off", XdpMode::Off),
            ];
            value.choice(cx, &words, &["offload"])
        }
    };
    let workers = get("workers").and_then(|value| value.integer(cx, 1..=253));
    let user = get("user").and_then(|value| {
        value
            .string(cx)
            .filter(|user| check_user(cx, &value, user))
            .map(str::to_owned)
    });
    let pins = get("pins").and_then(|value| read_path(cx, &value));
    let hash_key = get("hash_key").and_then(|value| read_hash_key(cx, &value));
    let tunnel = get("tunnel").and_then(|value| read_tunnel(cx, &value));
    let own_value = get("own_addresses");
    let own_addresses = own_value.as_ref().map(|value| read_own_addresses(cx, value));
    let tunnel_read = get("tunnel").is_none() || tunnel.is_some();
    let gateways = get("gateways").map(|value| gateways::read(cx, &value));
    let (gateways, gateways_at) = gateways.unwrap_or_default().into_iter().unzip();
    AskedNode {
        own_addresses_at: own_value.map(|value| value.at),
        tunnel_read,
        gateways_at,
        has_hash_key: get("hash_key").is_some(),
        xdp,
        has_interfaces: interfaces.as_ref().is_none_or(|list| !list.is_empty())
            || section.as_ref().is_some_and(|s| s.meant("interfaces")),
        at: xdp_value
            .map(|value| value.key_at)
            .or_else(|| section.map(|s| s.at))
            .unwrap_or(0),
        node: Node {
            name: name.unwrap_or_else(|| "weir".into()),
            interfaces: interfaces.unwrap_or_default(),
            own_addresses: own_addresses.unwrap_or_default(),
            xdp: xdp.unwrap_or(XdpMode::Native),
            workers: workers.and_then(|n| u16::try_from(n).ok()),
            user: user.unwrap_or_else(|| DEFAULT_USER.into()),
            pins: pins.unwrap_or_else(|| DEFAULT_PINS.into()),
            hash_key,
            tunnel: tunnel.unwrap_or_default(),
            gateways,
        },
    }
}

pub(crate) fn read_admin(cx: &mut Cx, document: &Table<'_>, facts: &Facts) -> AskedAdmin {
    let section = document
        .get("admin")
        .and_then(|value| value.table(cx, &keys::ADMIN));
    let get = |key| section.as_ref().and_then(|section| section.get(key));
    let socket = get("socket").and_then(|value| {
        let path = read_path(cx, &value)?;
        check_socket(cx, &value, &path).then_some(path)
    });
    let http_value = get("http");
    let http = match &http_value {
        None => DEFAULT_HTTP.parse().ok(),
        Some(value) => read_http(cx, value),
    };
    AskedAdmin {
        admin: Admin {
            socket: socket.unwrap_or_else(|| facts.runtime_dir.join(DEFAULT_SOCKET)),
            http,
        },
        http_at: http_value.map(|value| value.at),
    }
}

fn default_name(cx: &mut Cx, section: Option<&Table<'_>>, facts: &Facts) -> Option<std::sync::Arc<str>> {
    if is_node_name(&facts.hostname) {
        return Some(facts.hostname.as_str().into());
    }
    cx.mistake(
        section.map_or(0, |s| s.at),
        format!(
            "this box's host name, {}, can't be its name here",
            quoted(&facts.hostname)
        ),
        "write name = \"edge-1\" under [node]: letters, digits, dots, hyphens and underscores",
    );
    None
}

fn check_name(cx: &mut Cx, value: &Value<'_>, name: &str) -> bool {
    let good = is_node_name(name);
    if !good {
        value.mistake(
            cx,
            if name.is_empty() {
                "is empty".into()
            } else {
                format!("is {}", quoted(name))
            },
            "write 1 to 255 letters, digits, dots, hyphens and underscores",
        );
    }
    good
}

fn is_node_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// None if one of them is wrong.
fn read_interfaces(cx: &mut Cx, value: &Value<'_>) -> Option<Vec<String>> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut names = Some(Vec::new());
    for item in value.array(cx)? {
        let good = item.string(cx).filter(|name| {
            if Interface::new(name).is_none() {
                item.mistake(
                    cx,
                    format!("has {}, which is no interface's name", quoted(name)),
                    INTERFACE_MEND,
                );
                return false;
            }
            if let Some(&first) = seen.get(name) {
                let line = cx.line(first);
                item.mistake(
                    cx,
                    format!("has {} twice (first in line {line})", quoted(name)),
                    "remove one",
                );
                return false;
            }
            true
        });
        match (good, &mut names) {
            (Some(name), Some(list)) => {
                seen.insert(name, item.at);
                list.push(name.to_owned());
            }
            (Some(name), None) => {
                seen.insert(name, item.at);
            }
            (None, _) => names = None,
        }
    }
    names
}

/// The interface that the key `interface` of a section names. None: there is none, or it is wrong.
pub(crate) fn read_interface(cx: &mut Cx, table: &Table<'_>) -> Option<Interface> {
    let value = table.get("interface")?;
    let name = value.string(cx)?;
    let interface = Interface::new(name);
    if interface.is_none() {
        let what = format!("is {}, which is no interface's name", quoted(name));
        value.mistake(cx, what, INTERFACE_MEND);
    }
    interface
}

/// Those that can be read.
fn read_own_addresses(cx: &mut Cx, value: &Value<'_>) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for item in value.array(cx).unwrap_or_default() {
        let Some(text) = item.string(cx) else { continue };
        match text.parse::<IpAddr>() {
            Ok(ip) if all.contains(&ip) => item.mistake(cx, format!("has {ip} twice"), "remove one"),
            Ok(ip) => all.push(ip),
            Err(_) => item.mistake(
                cx,
                format!("has {}, which is no address", quoted(text)),
                "write addresses without port or prefix, as in 192.0.2.1",
            ),
        }
    }
    all
}

fn check_user(cx: &mut Cx, value: &Value<'_>, user: &str) -> bool {
    let good = (1..=32).contains(&user.len())
        && !user.starts_with('-')
        && user
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'$'));
    if !good {
        let what = if user.is_empty() {
            "is empty".into()
        } else {
            format!("is {}, which is no user's name", quoted(user))
        };
        value.mistake(cx, what, "name a user as in passwd(5)");
    }
    good
}

/// An absolute path.
pub(crate) fn read_path(cx: &mut Cx, value: &Value<'_>) -> Option<PathBuf> {
    let path = value.string(cx)?;
    if !path.starts_with('/') {
        value.mistake(
            cx,
            format!("is {}, not an absolute path", quoted(path)),
            "begin it with /",
        );
        return None;
    }
    if path.contains('\0') {
        value.mistake(cx, "has a NUL in it", "remove it");
        return None;
    }
    if path.split('/').any(|part| part == "..") {
        value.mistake(
            cx,
            format!("is {}, which goes up", quoted(path)),
            "write the path without ..",
        );
        return None;
    }
    Some(path.into())
}

fn check_socket(cx: &mut Cx, value: &Value<'_>, path: &std::path::Path) -> bool {
    let (Some(name), Some(directory)) = (path.file_name(), path.parent()) else {
        value.mistake(
            cx,
            "names a directory",
            "name a socket in it, such as /run/weir/control.sock",
        );
        return false;
    };
    if let Some(taken) = BESIDE.iter().find(|beside| name == **beside) {
        value.mistake(
            cx,
            format!("ends in {taken}, which weir uses itself"),
            "write another name, such as control.sock",
        );
        return false;
    }
    let longest = BESIDE
        .iter()
        .map(|beside| directory.join(beside).as_os_str().len())
        .chain([path.as_os_str().len()])
        .max()
        .unwrap_or(0);
    if longest > SOCKET_PATH {
        value.mistake(
            cx,
            format!("makes a path of {longest} bytes, and a socket's has room for {SOCKET_PATH}"),
            "write a shorter path",
        );
        return false;
    }
    true
}

fn read_http(cx: &mut Cx, value: &Value<'_>) -> Option<SocketAddr> {
    let text = value.string(cx)?;
    if text == "off" {
        return None;
    }
    if !text.contains([':', '.']) {
        value.mistake(
            cx,
            format!("is {}", quoted(text)),
            format!("write an address and port, as in \"{DEFAULT_HTTP}\", or \"off\""),
        );
        return None;
    }
    match parse_socket(text) {
        Ok(addr) => match unusable(addr.ip()) {
            None => return Some(addr),
            Some(why) => value.mistake(
                cx,
                format!("has {}, which {why}", addr.ip()),
                format!("write an address of this box, as in \"{DEFAULT_HTTP}\", or \"off\""),
            ),
        },
        Err(trouble) => value.trouble(cx, trouble),
    }
    None
}

/// None if anything of it is wrong.
fn read_tunnel(cx: &mut Cx, value: &Value<'_>) -> Option<Tunnel> {
    let table = value.table(cx, &keys::TUNNEL)?;
    let default = Tunnel::default();
    let mut network = |key, default: IpNet| match table.get(key) {
        None => Some(default),
        Some(value) => read_tunnel_network(cx, &value, default),
    };
    let source_v4 = network("source_v4", default.source_v4);
    let source_v6 = network("source_v6", default.source_v6);
    Some(Tunnel {
        source_v4: source_v4?,
        source_v6: source_v6?,
    })
}

/// A network of the default's family that outer source addresses can be taken from.
fn read_tunnel_network(cx: &mut Cx, value: &Value<'_>, default: IpNet) -> Option<IpNet> {
    let network = match parse_network(value.string(cx)?) {
        Ok(network) => network,
        Err(trouble) => {
            value.trouble(cx, trouble);
            return None;
        }
    };
    let v4 = default.addr().is_ipv4();
    let (family, longest) = if v4 { ("IPv4", 31) } else { ("IPv6", 127) };
    if network.addr().is_ipv4() != v4 {
        value.mistake(
            cx,
            format!("is {network}, which is not {family}"),
            format!("write an {family} network, as in {default}"),
        );
        return None;
    }
    if !(8..=longest).contains(&network.prefix()) {
        value.mistake(
            cx,
            format!("is {network}, whose prefix is not from 8 to {longest}"),
            format!("leave the flow's hash some bits behind the prefix, as in {default}"),
        );
        return None;
    }
    let why = match network.addr() {
        addr if addr.is_loopback() => Some("is loopback"),
        addr if addr.is_unspecified() => Some("is reserved"),
        addr => unusable(addr),
    };
    if let Some(why) = why {
        value.mistake(
            cx,
            format!("is {network}, which {why}"),
            format!("write a network that backends take packets from, as in {default}"),
        );
        return None;
    }
    Some(network)
}

fn read_hash_key(cx: &mut Cx, value: &Value<'_>) -> Option<[u64; 2]> {
    let text = value.string(cx)?;
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        // The key is a secret: it is not repeated in the message.
        value.mistake(
            cx,
            format!(
                "is not 32 hexadecimal digits ({} characters)",
                text.chars().count()
            ),
            "draw one with `openssl rand -hex 16`",
        );
        return None;
    }
    let word = |hex: &str| u64::from_str_radix(hex, 16).map(u64::swap_bytes).ok();
    let (low, high) = text.split_at_checked(16)?;
    Some([word(low)?, word(high)?])
}
