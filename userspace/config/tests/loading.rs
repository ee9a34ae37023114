//! Loading from files: what can't be read, tunables beside the file, certificates that checks name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use weir_config::{Facts, Source, load};
use weir_core::plan::{Mode, RuleAction};

const GOOD: &str =
    "[node]\nxdp = \"off\"\nname = \"a\"\n[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\n";

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory can be made"))
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory can be made");
        fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// The report of loading, with the directory's name taken out.
    fn report(&self, path: &Path) -> String {
        load(path)
            .expect_err("it has a mistake")
            .to_string()
            .replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn tunables_beside_the_file_count() {
    let dir = Dir::new();
    let path = dir.write("weir.toml", format!("{GOOD}check = {{ type = \"tcp\" }}\n"));
    dir.write("tunables.d/a.conf", "weir.check.fall = 9\n");
    let loaded = load(&path).unwrap();
    assert_eq!(loaded.plan.pools[0].check.as_ref().unwrap().fall, 9);
    assert_eq!(loaded.source.tunables.values().check_fall, 9);
    assert_eq!(loaded.source.name, path.to_string_lossy());
    assert_eq!(loaded.source.resolve().unwrap(), *loaded.plan);
    assert_eq!(loaded.source.facts, Facts::of_this_machine());
}

#[test]
fn mistakes_of_all_files_are_told() {
    let dir = Dir::new();
    let path = dir.write("weir.toml", format!("{GOOD}balance = \"\"\n"));
    dir.write("tunables.d/a.conf", "weir.check.fall = 0\n");
    assert_eq!(
        dir.report(&path),
        "tunables.d/a.conf:1:1: weir.check.fall is 0, less than 1; set it to 1 or more\n\
         weir.toml:6:11: pools.web.balance is ``, which is none of its values; write \"round-robin\" or \"least-connections\""
    );
}

#[test]
fn what_is_no_text_file_says_so() {
    let dir = Dir::new();
    let missing = dir.0.path().join("none.toml");
    assert_eq!(
        dir.report(&missing),
        "none.toml: cannot be read: No such file or directory (os error 2); name a file that weir may read"
    );
    fs::create_dir(dir.0.path().join("d.toml")).unwrap();
    let report = dir.report(&dir.0.path().join("d.toml"));
    assert_eq!(
        report,
        "d.toml: cannot be read: Is a directory (os error 21); name a file that weir may read"
    );
    let path = dir.write("weir.toml", b"[node]\nname = \"\xc3\xa4\xff\"\n");
    assert_eq!(
        dir.report(&path),
        "weir.toml:2:10: this byte is not UTF-8; save the file in UTF-8"
    );
    let path = dir.write("large.toml", vec![b'#'; (16 << 20) + 1]);
    assert_eq!(
        dir.report(&path),
        "large.toml: is larger than 16 MiB; name a configuration file"
    );
}

#[test]
fn certificates_that_a_check_names_must_be_there() {
    let dir = Dir::new();
    let ca = dir.write("ca.pem", "-----BEGIN CERTIFICATE-----\n");
    let text = |ca: &PathBuf| {
        format!(
            "{GOOD}[pools.web.check]\ntype = \"https\"\nca = \"{}\"\nrise = 3\n",
            ca.display()
        )
    };
    load(&dir.write("weir.toml", text(&ca))).unwrap();
    let path = dir.write("weir.toml", text(&dir.0.path().join("none.pem")));
    assert_eq!(
        dir.report(&path),
        "weir.toml:8:6: pools.web.check.ca names none.pem, which cannot be read: No such file or directory (os error 2); \
         name a file that weir may read"
    );
    let path = dir.write(
        "weir.toml",
        text(&dir.write("key.pem", "-----BEGIN PRIVATE KEY-----\n")),
    );
    assert_eq!(
        dir.report(&path),
        "weir.toml:8:6: pools.web.check.ca names key.pem, which holds no certificate; name a file of certificates in PEM \
         form"
    );
    // Beside other mistakes it is told as well.
    let both = text(&dir.0.path().join("none.pem")).replace("rise = 3", "rise = 0");
    assert_eq!(dir.report(&dir.write("weir.toml", both)).lines().count(), 2);
}

const BOX: &str = "[node]\ninterfaces = [\"eth0\"]\nname = \"a\"\n";

#[test]
fn lists_are_read_from_their_files_too() {
    let dir = Dir::new();
    let ban = dir.write(
        "ban.txt",
        "\u{feff}# who bothers us\r\n10.0.0.0/8 # all of it\r\n\r\n   192.0.2.7\t; SBL1\n2001:db8::/32\n10.0.0.0/8\n;198.51.100.1",
    );
    let allow = dir.write("allow.txt", "");
    let text = format!(
        "{BOX}[lists]\nban = [\"192.0.2.7\", \"192.0.2.8\"]\nban_file = \"{}\"\nallow_file = \"{}\"\n",
        ban.display(),
        allow.display()
    );
    let path = dir.write("weir.toml", text);
    let loaded = load(&path).unwrap_or_else(|report| panic!("{report}"));
    let shown: Vec<_> = loaded.plan.lists.ban.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["192.0.2.7/32", "192.0.2.8/32", "10.0.0.0/8", "2001:db8::/32"]
    );
    assert!(loaded.plan.lists.allow.is_empty());
    // The texts travel with the source: whoever resolves it anew may not be able to read the files.
    fs::remove_file(&ban).unwrap();
    let sent = serde_json::to_string(&loaded.source).unwrap();
    let received: Source = serde_json::from_str(&sent).unwrap();
    assert_eq!(received.resolve().unwrap(), *loaded.plan);
    assert_eq!(received.lists.allow.as_deref(), Some(""));
}

#[test]
fn mistakes_of_list_files_have_their_place() {
    let dir = Dir::new();
    let ban = dir.write(
        "ban.txt",
        "10.0.0.1/8\n192.0.2.0/24\nbad guys # and comment\n  300.1.1.1\n198.51.100.0/24\n",
    );
    let allow = dir.write("allow.txt", "# ours\n192.0.2.0/24\n");
    let text = format!(
        "{BOX}[lists]\nallow = [\"198.51.100.0/24\", \"203.0.113.1\"]\nban = [\"203.0.113.1\"]\nban_file = \"{}\"\nallow_file = \"{}\"\n",
        ban.display(),
        allow.display()
    );
    let path = dir.write("weir.toml", text);
    assert_eq!(
        dir.report(&path),
        "weir.toml:6:8: lists.ban has 203.0.113.1/32, which is allowed too (lists.allow, line 5); remove it from one of the two\n\
         ban.txt:1:1: this line has `10.0.0.1/8`, with bits set behind its prefix; write 10.0.0.0/8 for the network, or \
         10.0.0.1/32 for the one address\n\
         ban.txt:2:1: this line has 192.0.2.0/24, which is allowed too (allow.txt:2); remove it from one of the two\n\
         ban.txt:3:1: this line has `bad guys`, which is no network; write one as in 10.0.0.0/8 or 2001:db8::/32\n\
         ban.txt:4:3: this line has `300.1.1.1`, which is no network; write one as in 10.0.0.0/8 or 2001:db8::/32\n\
         ban.txt:5:1: this line has 198.51.100.0/24, which is allowed too (lists.allow, line 5); remove it from one of the two"
    );
    // A file of something else is not told line by line.
    let ban = dir.write("ban.txt", "<html>\n".repeat(1000));
    let path = dir.write(
        "weir.toml",
        format!("{BOX}[lists]\nban_file = \"{}\"\n", ban.display()),
    );
    let report = dir.report(&path);
    assert_eq!(report.lines().count(), 16);
    assert!(report.ends_with("(and 984 more lines are wrong)"), "{report}");
}

#[test]
fn files_of_lists_must_be_there() {
    let dir = Dir::new();
    let missing = dir.0.path().join("none.txt");
    let binary = dir.write("allow.txt", b"10.0.0.1\n\xff");
    let text = format!(
        "{BOX}workers = 0\n[lists]\nban_file = \"{}\"\nallow_file = \"{}\"\n",
        missing.display(),
        binary.display()
    );
    let path = dir.write("weir.toml", text);
    assert_eq!(
        dir.report(&path),
        "allow.txt:2:1: this byte is not UTF-8; save the file in UTF-8\n\
         weir.toml:4:11: node.workers is 0, less than 1; write a number from 1 to 253\n\
         weir.toml:6:12: lists.ban_file names none.txt, which cannot be read: No such file or directory (os error 2); name a \
         file of networks that weir may read, an empty one if there are none"
    );
}

#[test]
fn a_hundred_thousand_bans_are_no_matter() {
    let dir = Dir::new();
    let lines: String = (0..100_000u32)
        .map(|i| format!("{}\n", std::net::Ipv4Addr::from(0x0b00_0000 + i)))
        .collect();
    let ban = dir.write("ban.txt", lines);
    let text = format!("{BOX}[lists]\nban_file = \"{}\"\n", ban.display());
    let loaded = load(&dir.write("weir.toml", text)).unwrap();
    assert_eq!(loaded.plan.lists.ban.len(), 100_000);
}

#[test]
fn bodies_of_responses_are_read_with_the_file() {
    let dir = Dir::new();
    let body = dir.write("sorry.html", "<p>Sorry.</p>\n");
    let rule = |path: &Path| {
        format!(
            "{GOOD}[services.www]\nlisten = [\"127.0.0.1:8080\"]\nmode = \"http\"\npool = \"web\"\n\
             rules = [{{ respond = {{ status = 503, file = \"{}\" }} }}]\n",
            path.display()
        )
    };
    let path = dir.write("weir.toml", rule(&body));
    let loaded = load(&path).unwrap();
    let Mode::Http(http) = &loaded.plan.services[0].mode else {
        panic!("{:?}", loaded.plan)
    };
    let RuleAction::Respond(respond) = &http.rules[0].action else {
        panic!("{:?}", http.rules)
    };
    assert_eq!((respond.status, &*respond.body), (503, "<p>Sorry.</p>\n"));
    // Whoever is handed the source resolves the same, without looking at the file again.
    let text = serde_json::to_string(&loaded.source).unwrap();
    fs::remove_file(&body).unwrap();
    let handed: Source = serde_json::from_str(&text).unwrap();
    assert_eq!(handed.resolve().unwrap(), *loaded.plan);

    let key = "weir.toml:10:45: services.www.rules.respond.file names ";
    assert_eq!(
        dir.report(&path),
        format!(
            "{key}sorry.html, which cannot be read: No such file or directory (os error 2); name a file that weir may read"
        )
    );
    dir.write("sorry.html", b"\xff");
    assert_eq!(
        dir.report(&path),
        format!("{key}sorry.html, which is not UTF-8; name a text in UTF-8")
    );
    dir.write("sorry.html", "x".repeat((1 << 20) + 1));
    assert_eq!(
        dir.report(&path),
        format!("{key}sorry.html, which is larger than 1 MiB; have a backend serve it")
    );
}

#[test]
fn keys_that_sign_adverts_are_read_and_judged() {
    use std::os::unix::fs::PermissionsExt;

    let dir = Dir::new();
    let key = dir.write("vrrp.key", "0123456789abcdef\n");
    let text = format!(
        "[node]\nname = \"a\"\ninterfaces = [\"eth0\"]\n[vrrp.edge]\n\
         routers = [{{ interface = \"eth0\", id = 1, addresses = [\"192.0.2.10/24\"] }}]\n\
         authentication = {{ keys = [{{ id = 1, file = \"{}\" }}] }}\n",
        key.display()
    );
    let path = dir.write("weir.toml", text);
    let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("it can be changed");
    mode(0o644);
    assert_eq!(
        dir.report(&path),
        "weir.toml:6:45: vrrp.edge.authentication.keys.file names vrrp.key, which is open to everybody (mode 644); `chmod 600` \
         it: who can read it can depose a master"
    );
    mode(0o600);
    let loaded = load(&path).unwrap_or_else(|report| panic!("{report}"));
    // The secret is in nothing that is handed on.
    assert!(!format!("{:?}{:?}", loaded.plan, loaded.source).contains("0123456789abcdef"));
}
