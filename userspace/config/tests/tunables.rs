//! Tunables: types and ranges, the syntax of their files, where values come from.

use std::{collections::BTreeSet, fs, time::Duration};

use weir_config::{
    Tunables,
    tunables::{Applies, Kind, Origin, REGISTRY, Value, assignments},
};

#[track_caller]
fn refuses(name: &str, value: &str, expected: &str) {
    let mut tunables = Tunables::default();
    let error = tunables
        .set(name, value, Origin::Runtime)
        .expect_err("it is refused");
    assert_eq!(error.to_string(), expected);
    assert_eq!(tunables, Tunables::default(), "nothing has changed");
}

#[test]
fn the_registry_is_sound() {
    let names: BTreeSet<_> = REGISTRY.iter().map(|tunable| tunable.name).collect();
    assert_eq!(names.len(), REGISTRY.len(), "no name twice");
    for setting in Tunables::default().iter() {
        let name = setting.tunable.name;
        assert!(
            name.starts_with("weir.")
                && name
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_'))
        );
        assert!(setting.tunable.description.ends_with('.'), "{name}");
        assert_eq!(*setting.origin, Origin::Default);
        // Each default is in its own range, and written so that it is read back.
        let mut tunables = Tunables::default();
        let set = tunables
            .set(name, &setting.value.to_string(), Origin::Runtime)
            .unwrap();
        assert_eq!(set.value, setting.value, "{name}");
        assert_eq!(*set.origin, Origin::Runtime);
    }
}

#[test]
fn both_ends_of_each_range_are_taken_and_what_lies_beyond_is_not() {
    for tunable in REGISTRY {
        let ms = |ms: u128| format!("{ms}ms");
        let (low, high, below, above) = match tunable.kind {
            Kind::Duration { min, max, step } => (
                ms(min.as_millis()),
                ms(max.as_millis()),
                min.checked_sub(step).map(|d| ms(d.as_millis())),
                ms((max + step).as_millis()),
            ),
            Kind::Bytes { min, max } => (
                format!("{min}B"),
                format!("{max}B"),
                min.checked_sub(1).map(|n| format!("{n}B")),
                format!("{}B", max + 1),
            ),
            Kind::Count { min, max, prime: _ } => (
                min.to_string(),
                max.to_string(),
                min.checked_sub(1).map(|n| n.to_string()),
                (u64::from(max) + 1).to_string(),
            ),
        };
        let mut tunables = Tunables::default();
        let mut set = |value: &str| tunables.set(tunable.name, value, Origin::Runtime).map(|_| ());
        assert_eq!((set(&low), set(&high)), (Ok(()), Ok(())), "{}", tunable.name);
        assert!(below.is_none_or(|below| set(&below).is_err()), "{}", tunable.name);
        assert!(set(&above).is_err(), "{}", tunable.name);
    }
}

#[test]
fn what_can_not_be_set_says_why() {
    refuses(
        "weir.relay.timeout.conect",
        "5s",
        "there is no tunable `weir.relay.timeout.conect`; did you mean `weir.relay.timeout.connect`?",
    );
    refuses(
        "net.ipv4.ip_forward",
        "1",
        "there is no tunable `net.ipv4.ip_forward`; `weir sysctl -a` lists all tunables",
    );
    refuses(
        "weir.relay.timeout.connect",
        "5",
        "weir.relay.timeout.connect has no unit (`5`); write 5s for seconds, or 5ms for milliseconds",
    );
    refuses(
        "weir.relay.timeout.connect",
        "0s",
        "weir.relay.timeout.connect is 0s, less than 1ms; set it to 1ms or more",
    );
    refuses(
        "weir.relay.timeout.connect",
        "2d",
        "weir.relay.timeout.connect is 2d, more than 1d; set it to 1d or less",
    );
    refuses(
        "weir.l4.flow.tcp_grace",
        "1500ms",
        "weir.l4.flow.tcp_grace is 1500ms, not a multiple of 1s; set it to 2s",
    );
    refuses(
        "weir.relay.limit.head",
        "64",
        "weir.relay.limit.head has no unit (`64`); write 64B for bytes, or 64KiB",
    );
    refuses(
        "weir.relay.limit.head",
        "2MiB",
        "weir.relay.limit.head is 2MiB, more than 1MiB; set it to 1MiB or less",
    );
    refuses(
        "weir.check.rise",
        "0",
        "weir.check.rise is 0, less than 1; set it to 1 or more",
    );
    refuses(
        "weir.check.rise",
        "two",
        "weir.check.rise is no whole number (`two`); write a number from 1 to 1000",
    );
    refuses(
        "weir.check.rise",
        "",
        "weir.check.rise is no whole number (``); write a number from 1 to 1000",
    );
    refuses(
        "weir.check.rise",
        "-1",
        "weir.check.rise is no whole number (`-1`); write a number from 1 to 1000",
    );
    refuses(
        "weir.check.rise",
        "99999999999999999999",
        "weir.check.rise is 99999999999999999999, more than 1000; set it to 1000 or less",
    );
    refuses(
        "weir.l4.ring_size",
        "65536",
        "weir.l4.ring_size is 65536, which is no prime; the next primes are 65521 and 65537",
    );
}

#[test]
fn values_are_got_typed_and_by_name() {
    let mut tunables = Tunables::default();
    let setting = tunables
        .set("weir.relay.drain", "1m30s", Origin::Runtime)
        .unwrap();
    assert_eq!(setting.to_string(), "weir.relay.drain = 90s");
    assert_eq!(tunables.values().relay_drain, Duration::from_secs(90));
    let setting = tunables.get("weir.relay.drain").unwrap();
    assert_eq!(
        (setting.value, setting.tunable.applies),
        (Value::Duration(Duration::from_secs(90)), Applies::Live)
    );
    assert_eq!(
        tunables.get("weir.l4.flow.entries").unwrap().tunable.applies,
        Applies::Restart
    );
    assert!(tunables.get("weir.relay").is_none());
}

#[test]
fn what_is_rendered_is_read_back() {
    let mut tunables = Tunables::default();
    tunables.set("weir.check.jitter", "0", Origin::Runtime).unwrap();
    tunables
        .set("weir.relay.limit.head", "1536B", Origin::Runtime)
        .unwrap();
    let text = tunables.render();
    assert_eq!(text.lines().count(), REGISTRY.len());
    let mut again = Tunables::default();
    again.load_text("all.conf", &text).unwrap();
    assert_eq!(again.values(), tunables.values());
}

#[test]
fn files_have_the_syntax_of_sysctl_conf() {
    let text = "# a comment\n; another\n\n   weir.check.rise   =  3  \r\nweir.check.fall=4\n\
        -weir.no.such = 1\n- weir.check.jitter = 99\n-weir.relay.drain = 7s\nweir.check.fall = 5";
    let mut tunables = Tunables::default();
    tunables.load_text("a.conf", text).unwrap();
    let values = tunables.values();
    assert_eq!(
        (values.check_rise, values.check_fall, values.check_jitter),
        (3, 5, 10)
    );
    assert_eq!(values.relay_drain, Duration::from_secs(7));
    let origin = |name| tunables.get(name).unwrap().origin.to_string();
    assert_eq!(
        (origin("weir.check.fall"), origin("weir.check.jitter")),
        ("a.conf:9".into(), "default".into())
    );

    let pairs = assignments("a.conf", text).unwrap();
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        pairs,
        [
            ("weir.check.rise", "3"),
            ("weir.check.fall", "4"),
            ("weir.relay.drain", "7s"),
            ("weir.check.fall", "5")
        ]
    );
}

#[test]
fn every_mistake_of_a_file_is_told_and_the_rest_applies() {
    let text = "weir.check.rise = 0\nweir.check.fall = 7\n  weir.check.fal = 3\nweir.relay.drain\n-weir.relay.drain\n";
    let mut tunables = Tunables::default();
    let report = tunables.load_text("a.conf", text).unwrap_err();
    let mend = "write a tunable's name, =, and its value, or begin the line with #";
    assert_eq!(
        report.to_string(),
        format!(
            "a.conf:1:1: weir.check.rise is 0, less than 1; set it to 1 or more\n\
             a.conf:3:3: there is no tunable `weir.check.fal`; did you mean `weir.check.fall`?\n\
             a.conf:4:1: `weir.relay.drain` is no `name = value`; {mend}\n\
             a.conf:5:1: `-weir.relay.drain` is no `name = value`; {mend}"
        )
    );
    assert_eq!(tunables.values().check_fall, 7);
    assert_eq!(assignments("a.conf", text).unwrap_err(), report);
}

#[test]
fn a_directory_is_read_in_the_order_of_names() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("20-b.conf", "weir.check.rise = 20\n");
    write("10-a.conf", "weir.check.rise = 10\nweir.check.fall = 10\n");
    write("30-c.conf.bak", "weir.check.rise = nonsense\n");
    write("README", "not a file of tunables\n");
    let tunables = Tunables::load_dir(dir.path()).unwrap();
    assert_eq!(
        (tunables.values().check_rise, tunables.values().check_fall),
        (20, 10)
    );
    assert_eq!(
        tunables.get("weir.check.rise").unwrap().origin.to_string(),
        format!("{}:1", dir.path().join("20-b.conf").display())
    );
    assert_eq!(
        Tunables::load_dir(&dir.path().join("none")).unwrap(),
        Tunables::default()
    );

    write("05.conf", "x = 1\n");
    write("99.conf", "weir.check.fall = 0\n");
    let report = Tunables::load_dir(dir.path()).unwrap_err().to_string();
    let lines: Vec<_> = report
        .lines()
        .map(|line| line.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            "05.conf:1:1: there is no tunable `x`; `weir sysctl -a` lists all tunables",
            "99.conf:1:1: weir.check.fall is 0, less than 1; set it to 1 or more"
        ]
    );
}
