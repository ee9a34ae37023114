//! Two boxes that share addresses: who answers clients as boxes are reloaded, restarted, demoted, stopped and killed; and a
//! box beside keepalived.
//!
//! ```text
//!   client .100 ─┐               ┌─ box1 .1
//!   backend .50 ─┴─ 192.0.2.0/24 ┴─ box2 .2        192.0.2.10 and 2001:db8::10 are on one of them
//! ```

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_harness::{
    Cmd, Netns, Scratch, Weir, WeirConfig,
    peer::{
        curl::{self, url},
        keepalived::Keepalived,
        nginx::Nginx,
    },
    scratch::unique,
    wait_until,
};

const VIPS: [&str; 2] = ["192.0.2.10", "2001:db8::10"];
const PATIENCE: Duration = Duration::from_secs(20);

/// One link, with all of them on it.
struct Site {
    // Dropped before their namespaces.
    _nginx: Nginx,
    client: Netns,
    boxes: [Netns; 2],
    _backend: Netns,
    _switch: Netns,
}

impl Site {
    fn new() -> Result<Self> {
        let name = unique();
        let netns = |column: &str| Netns::new(&format!("{name}-{column}"));
        let switch = netns("switch")?;
        let (client, backend) = (netns("client")?, netns("backend")?);
        let boxes = [netns("box1")?, netns("box2")?];
        let ends = [(&client, 100), (&backend, 50), (&boxes[0], 1), (&boxes[1], 2)];
        let mut lines = vec![
            "link add bridge type bridge mcast_snooping 0 forward_delay 0".to_owned(),
            "link set bridge up".to_owned(),
        ];
        for (netns, number) in &ends {
            lines.push(format!(
                "link add eth0 netns {} type veth peer name p{number} netns {}",
                netns.name(),
                switch.name()
            ));
            lines.push(format!("link set p{number} master bridge up"));
        }
        switch.ip(lines)?;
        for (netns, number) in &ends {
            netns.ip([
                format!("addr add 192.0.2.{number}/24 dev eth0"),
                format!("addr add 2001:db8::{number}/64 dev eth0 nodad"),
                "link set eth0 addrgenmode none".to_owned(),
                "link set eth0 up".to_owned(),
                "link add spare type veth peer name spare-end".to_owned(),
                "link set spare up".to_owned(),
                "link set spare-end up".to_owned(),
                format!("addr add fe80::{number}/64 dev eth0 nodad"),
            ])?;
            for (at, device) in [(*netns, "eth0".to_owned()), (&switch, format!("p{number}"))] {
                let cmd = Cmd::new("ethtool").args(["-K", &device, "tx", "off"]);
                cmd.inside(at).check()?;
            }
        }
        let nginx = Nginx::start(&backend, "b1", &["192.0.2.50:80".parse().context("an address")?])?;
        Ok(Self {
            _nginx: nginx,
            client,
            boxes,
            _backend: backend,
            _switch: switch,
        })
    }

    /// Which box answers clients, by either family; the same one by both.
    fn who(&self) -> Result<String> {
        let answers = VIPS.map(|vip| -> Result<String> {
            let target = SocketAddr::new(vip.parse().context("an address")?, 80);
            let response = curl::get(&self.client, &url(target, "/"), &["--max-time", "3"])?;
            ensure!(response.status == 200 && response.who() == "b1", "{response:?}");
            Ok(response.field("X-Box").concat())
        });
        let [v4, v6] = answers;
        let (v4, v6) = (v4.context("IPv4")?, v6.context("IPv6")?);
        ensure!(v4 == v6, "{v4} by IPv4, {v6} by IPv6");
        Ok(v4)
    }

    fn answers(&self, node: &str) -> Result<()> {
        wait_until(PATIENCE, &format!("{node} answers clients"), || {
            match self.who() {
                Ok(who) if who == node => Ok(()),
                Ok(who) => Err(format!("{who} does")),
                Err(error) => Err(format!("{error:#}")),
            }
        })
    }

    /// The same for clients that know nothing of link addresses: a box that still had the address would answer some of them.
    fn alone_answers(&self, node: &str) -> Result<()> {
        self.answers(node)?;
        for _ in 0..5 {
            self.client.ip(["neigh flush all"])?;
            let who = self.who()?;
            ensure!(who == node, "{who} answers as well");
        }
        Ok(())
    }

    /// A client's connection that is kept, after one request.
    fn keep(&self) -> Result<TcpStream> {
        let to = SocketAddr::new(VIPS[0].parse().context("an address")?, 80);
        let mut stream = self.client.run(|| TcpStream::connect(to))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).context("a response")?;
            head.extend(byte);
        }
        Ok(stream)
    }

    /// Whether a box has the addresses: all, or none.
    fn holds(&self, index: usize) -> Result<bool> {
        let shown = Cmd::new("ip")
            .args(["-o", "addr"])
            .inside(&self.boxes[index])
            .check()?;
        let has = VIPS.map(|vip| shown.contains(&format!(" {vip}/")));
        ensure!(has[0] == has[1], "some addresses, and others not: {shown}");
        Ok(has[0])
    }

    /// Whether a box tells routing daemons of the addresses.
    fn exports(&self, index: usize) -> Result<bool> {
        let show = Cmd::new("ip").args(["route", "show", "table", "180"]);
        Ok(show.inside(&self.boxes[index]).run()?.text().contains(VIPS[0]))
    }
}

/// Pools and services, and `more` of them.
fn body(priority: u8, preempt: &str, interval: &str, keys: &Scratch, more: &str) -> String {
    format!(
        "[vrrp.edge]\npriority = {priority}\npreempt = {preempt}\ninterval = \"{interval}\"\n\
         routers = [{{ interface = \"eth0\", id = 51, addresses = [\"192.0.2.10/24\", \"2001:db8::10/64\"] }}]\n\
         demote_on = [{{ service = \"www\" }}, {{ link = \"spare\", by = 20 }}, {{ file = \"{standby}\", by = 3 }}]\n\
         [vrrp.edge.authentication]\nkeys = [{{ id = 1, file = \"{}\" }}]\n\
         [pools.web]\nbackends = [{{ address = \"192.0.2.50:80\", name = \"b1\" }}]\n\
         [pools.web.check]\ntype = \"tcp\"\ninterval = \"5s\"\ntimeout = \"4s\"\n\
         [services.www]\nlisten = [\"192.0.2.10:80\", \"[2001:db8::10]:80\"]\nmode = \"http\"\npool = \"web\"\n\
         response_headers = [{{ set = \"X-Box\", value = \"{{node.name}}\" }}]\n{more}\
         [export]\nnotice = \"0s\"\n",
        keys.join("vrrp.key").display(),
        standby = keys.join(format!("standby-{priority}")).display(),
    )
}

/// What a box has said, in which order.
fn in_order(weir: &Weir<'_>, [first, second]: [&str; 2]) -> Result<()> {
    let log = weir.log();
    let at = |what: &str| log.find(what).with_context(|| format!("{what:?} in {log}"));
    ensure!(at(first)? < at(second)?, "{log}");
    Ok(())
}

fn config(node: &'static str, body: String) -> WeirConfig {
    let mut config = WeirConfig::both_planes(body);
    config.node = node;
    config.interfaces = vec!["eth0"];
    config.hash_key = Some("00112233445566778899aabbccddeeff");
    config
}

/// Has a box tell the other one of its flows.
fn sync(own: u8, other: u8, keys: &Scratch) -> String {
    format!(
        "[sync]\nlocal = \"192.0.2.{own}\"\npeers = [\"192.0.2.{other}\"]\nkeys = [{{ id = 1, file = \"{}\" }}]\n",
        keys.join("vrrp.key").display()
    )
}

/// The file with the pair's key.
fn keys() -> Result<Scratch> {
    let scratch = Scratch::new()?;
    let file = scratch.write("vrrp.key", "5f0c1d2e3b4a59687786a5b4c3d2e1f0\n")?;
    Cmd::new("chmod").arg("600").arg(&file).check()?;
    Ok(scratch)
}

#[test]
fn a_pair_of_boxes() -> Result<()> {
    const ALWAYS: &str = "\"always\"";
    let (site, keys) = (Site::new()?, keys()?);
    let first = |interval: &str, more: &str| {
        let more = sync(1, 2, &keys) + more;
        body(200, ALWAYS, interval, &keys, &more)
    };
    let second = |interval: &str| body(100, "\"never\"", interval, &keys, &sync(2, 1, &keys));
    let mut one = Weir::start(&site.boxes[0], config("edge-1", first("500ms", "")))?;
    let started = one.wait_group("edge", "master")?;
    ensure!(started.cause == "no master was heard", "{started:?}");
    let mut two = Weir::start(&site.boxes[1], config("edge-2", second("500ms")))?;
    wait_until(PATIENCE, "edge-2 hears edge-1", || {
        let group = two.group("edge").map_err(|e| format!("{e:#}"))?;
        let master = group
            .master
            .as_ref()
            .map(|master| (master.address.as_str(), master.priority));
        let heard = matches!(master, Some(("192.0.2.1" | "fe80::1", 200)));
        (group.state == "backup" && heard && group.demotion == 0)
            .then_some(())
            .ok_or_else(|| format!("{group:?}"))
    })?;
    // It was not to be master before it had edge-1's flows.
    two.wait_log("flows of other boxes are not held yet (1)")?;
    site.answers("edge-1")?;
    ensure!(site.holds(0)? && !site.holds(1)?, "the addresses are on one box");
    ensure!(site.exports(0)? && !site.exports(1)?, "so are their routes");
    let shown = one.ask(&["ha"])?;
    ensure!(
        shown.contains("group edge: master") && shown.contains("signatures enforce"),
        "{shown}"
    );
    let shown = two.ask(&["status"])?;
    ensure!(shown.contains("edge") && shown.contains("backup"), "{shown}");

    // Reloads move nothing: not another interval, not a service whose backends nobody has checked yet.
    let (before, waits) = (one.group("edge")?.changes, two.group("edge")?.changes);
    let more = "[pools.new]\nbackends = [{ address = \"192.0.2.50:80\" }]\n\
                [pools.new.check]\ntype = \"tcp\"\ninterval = \"5s\"\ntimeout = \"4s\"\n\
                [services.new]\nlisten = [\"192.0.2.10:81\"]\nmode = \"tcp\"\npool = \"new\"\n";
    one.rewrite(first("8s", more))?;
    two.rewrite(second("8s"))?;
    let told = one.ask(&["reload"])?;
    ensure!(told.contains("vrrp edge: interval: 500ms → 8s"), "{told}");
    two.ask(&["reload"])?;
    site.answers("edge-1")?;

    // Nor does a new control, which goes on as what the one before it was.
    one.kill_control();
    one.start_again()?;
    let group = one.wait_group("edge", "master")?;
    ensure!(
        group.cause == "was master before" && group.changes == 1,
        "{group:?}"
    );
    // It does not wait for the kernel to verify programs, which takes seconds.
    in_order(&one, ["virtual routers take part", "pinned maps taken over"])?;
    site.answers("edge-1")?;
    ensure!(two.group("edge")?.changes == waits, "{:?}", two.group("edge")?);

    // Nor does one that takes its place while it runs, as an upgrade does.
    one.replace()?;
    let group = one.wait_group("edge", "master")?;
    ensure!(
        group.cause == "was master before" && group.changes == 1,
        "{group:?}"
    );
    site.answers("edge-1")?;
    ensure!(two.group("edge")?.changes == waits, "{:?}", two.group("edge")?);
    ensure!(before == 2, "init, backup, master: {before}");

    // Back to short times.
    one.rewrite(first("500ms", ""))?;
    two.rewrite(second("500ms"))?;
    one.ask(&["reload"])?;
    two.ask(&["reload"])?;

    // A box without backends yields to one that has some, and has it back once it is well.
    one.ask(&["backend", "maint", "web/b1"])?;
    site.answers("edge-2")?;
    let group = one.wait_group("edge", "backup")?;
    ensure!(
        group.demotion == 1
            && group.announced == 9
            && group.shares[0].cause == "no backend of service www is up",
        "{group:?}"
    );
    ensure!(
        !site.holds(0)? && site.holds(1)?,
        "the addresses are on the other box"
    );
    one.ask(&["backend", "ready", "web/b1"])?;
    site.answers("edge-1")?;
    two.wait_group("edge", "backup")?;

    // So does an operator's word; both see it in their metrics.
    let told = one.ask(&["demote", "edge"])?;
    ensure!(told == "edge: this box is demoted by 128\n", "{told}");
    site.answers("edge-2")?;
    one.wait_group("edge", "backup")?;
    let metrics = one.metrics()?;
    let operator = [("group", "edge"), ("cause", "operator")];
    ensure!(
        (metrics.sum("weir_vrrp_demotion", &operator)? - 128.0).abs() < 0.5,
        "128 by the operator"
    );
    let master = [("group", "edge"), ("state", "master")];
    ensure!(
        (two.metrics()?.sum("weir_vrrp_state", &master)? - 1.0).abs() < 0.5,
        "edge-2 is master"
    );
    let wrong = one.cli(&["demote", "egde"])?;
    ensure!(
        !wrong.status.success() && wrong.complaint().contains("there is no group egde"),
        "{wrong:?}"
    );
    one.ask(&["demote", "edge", "0"])?;
    site.answers("edge-1")?;

    // Links and files count by what they say, and take back exactly that.
    site.boxes[0].ip(["link set spare down"])?;
    std::fs::write(keys.join("standby-200"), "")?;
    let against = |sum: u32| {
        wait_until(PATIENCE, &format!("edge-1 is demoted by {sum}"), || {
            let group = one.group("edge").map_err(|e| format!("{e:#}"))?;
            (group.demotion == sum)
                .then_some(())
                .ok_or_else(|| format!("{group:?}"))
        })
    };
    against(23)?;
    site.answers("edge-2")?;
    ensure!(
        !site.exports(0)? && site.exports(1)?,
        "routes go where addresses do"
    );
    site.boxes[0].ip(["link set spare up"])?;
    against(3)?;
    std::fs::remove_file(keys.join("standby-200"))?;
    against(0)?;
    site.answers("edge-1")?;
    two.wait_group("edge", "backup")?;

    // An address that somebody removes is there again; a link that goes down takes the box out.
    site.boxes[0].ip(["addr del 192.0.2.10/24 dev eth0"])?;
    wait_until(PATIENCE, "the address is back", || match site.holds(0) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it is not".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    })?;
    site.answers("edge-1")?;

    // An orderly end: the other one has it before this one is gone, and nothing of it stays.
    let mut kept = site.keep()?;
    one.stop()?;
    // Who had a connection was shown its end before the addresses went: the other box would reset it.
    in_order(
        &one,
        [
            "connections of the relay have ended left=0",
            "other boxes are asked to take over",
        ],
    )?;
    let mut rest = Vec::new();
    kept.read_to_end(&mut rest)
        .context("a connection that was kept")?;
    ensure!(rest.is_empty(), "{rest:?}");
    ensure!(
        !site.holds(0)? && !one.scratch().join("vrrp.state").exists(),
        "it has left something"
    );
    let group = two.wait_group("edge", "master")?;
    ensure!(
        group.cause.contains("demoted more") || group.cause.contains("left"),
        "{group:?}"
    );
    site.answers("edge-2")?;

    // A box whose control is stopped has the addresses, and is silent: its lease ends. It finds that out when it wakes.
    let mut one = Weir::start(&site.boxes[0], config("edge-1", first("500ms", "")))?;
    site.answers("edge-1")?;
    two.wait_group("edge", "backup")?;
    one.signal(Signal::SIGSTOP)?;
    two.wait_group("edge", "master")?;
    ensure!(site.holds(0)? && site.holds(1)?, "nobody took the addresses away");
    site.alone_answers("edge-2")?;
    one.signal(Signal::SIGCONT)?;
    site.alone_answers("edge-1")?;
    two.wait_group("edge", "backup")?;

    // A box dies.
    site.boxes[0].kill_processes()?;
    let group = two.wait_group("edge", "master")?;
    ensure!(group.cause == "no master was heard", "{group:?}");
    ensure!(site.holds(0)?, "nobody took the addresses away");
    site.alone_answers("edge-2")?;
    drop(one);
    two.signal(Signal::SIGINT)?;
    two.wait_end(PATIENCE)?;
    ensure!(!site.holds(1)?, "the addresses stay");
    Ok(())
}

/// keepalived on the second box.
const KEEPALIVED: &str = "global_defs {\n vrrp_version 3\n vrrp_garp_master_delay 0\n}\n\
     vrrp_instance edge {\n interface eth0\n virtual_router_id 51\n priority 100\n advert_int 0.5\n \
     virtual_ipaddress {\n 192.0.2.10/24\n }\n}\n";

#[test]
fn beside_keepalived() -> Result<()> {
    let site = Site::new()?;
    let has = |index: usize, wanted: bool| {
        wait_until(
            PATIENCE,
            &format!("box {index} has the address: {wanted}"),
            || {
                let shown = Cmd::new("ip")
                    .args(["-o", "addr"])
                    .inside(&site.boxes[index])
                    .check()
                    .map_err(|e| format!("{e:#}"))?;
                let found = shown.contains(" 192.0.2.10/");
                (found == wanted).then_some(()).ok_or(shown)
            },
        )
    };
    let mut peer = Keepalived::start(&site.boxes[1], KEEPALIVED)?;
    has(1, true)?;
    let text = "[vrrp.edge]\npriority = 200\npreempt = \"always\"\ninterval = \"500ms\"\n\
        routers = [{ interface = \"eth0\", id = 51, addresses = [\"192.0.2.10/24\"], checksum = \"rfc5798\" }]\n\
        [services.www]\nlisten = [\"192.0.2.10:80\"]\nmode = \"http\"\nrules = [{ respond = { body = \"weir\" } }]\n";
    let mut weir = Weir::start(&site.boxes[0], config("edge-1", text.to_owned()))?;
    let group = weir.wait_group("edge", "master")?;
    ensure!(
        group.cause.contains("192.0.2.2 is master with priority 100 only"),
        "{group:?}"
    );
    has(1, false)?;
    let answer = curl::get(&site.client, "http://192.0.2.10/", &[])?;
    ensure!(answer.text() == "weir", "{answer:?}");
    // It knows nothing of demotion, and acts on it.
    weir.ask(&["demote", "edge", "1"])?;
    has(1, true)?;
    weir.wait_group("edge", "backup")?;
    weir.ask(&["demote", "edge", "0"])?;
    has(0, true)?;
    weir.stop()?;
    has(1, true)?;
    has(0, false)?;
    peer.stop(PATIENCE)?;
    Ok(())
}
