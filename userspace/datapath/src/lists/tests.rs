//! Lists carried out on a map in memory, which is looked up as the programs do.

use proptest::prelude::*;

use super::*;

fn ip_net(text: &str) -> IpNet {
    let (addr, len) = text.split_once('/').unwrap();
    IpNet::new(addr.parse().unwrap(), len.parse().unwrap()).unwrap()
}

fn key(text: &str) -> Prefix {
    prefix(&ip_net(text))
}

fn lists(allow: &[&str], ban: &[&str]) -> Lists {
    let nets = |list: &[&str]| list.iter().map(|text| ip_net(text)).collect();
    Lists {
        allow: nets(allow),
        ban: nets(ban),
    }
}

const BAN: ListEntry = ListEntry { until: 0, flags: 0 };
const ALLOW: ListEntry = ListEntry {
    until: 0,
    flags: list::ALLOW,
};

/// The map, as the operations leave it.
#[derive(Default)]
struct Map {
    held: Held,
    entries: HashMap<Prefix, ListEntry>,
}

impl Map {
    fn apply(&mut self, change: impl FnOnce(&mut Held) -> Vec<ListOp>) -> Vec<ListOp> {
        let ops = change(&mut self.held);
        for op in &ops {
            match op {
                ListOp::Set(key, entry) => drop(self.entries.insert(*key, *entry)),
                ListOp::Delete(key) => assert!(self.entries.remove(key).is_some(), "{key:?} is there"),
            }
        }
        ops
    }

    fn operate(&mut self, text: &str, entry: Option<ListEntry>) {
        self.apply(|held| held.operate(&[(key(text), entry)]));
    }

    fn at(&self, text: &str) -> Option<ListEntry> {
        self.entries.get(&key(text)).copied()
    }

    /// As the programs look up: the longest prefix, and nothing if that has ended.
    fn rule(&self, address: &str, now: u32) -> Option<Rule> {
        let address = u128::from_be_bytes(Addr16::from(address.parse::<IpAddr>().unwrap()).octets());
        let holds = |key: &Prefix| {
            let bits = u128::from_be_bytes(key.addr.octets());
            (bits ^ address).checked_shr(128 - key.len).unwrap_or(0) == 0
        };
        let longest = self
            .entries
            .iter()
            .filter(|(key, _)| holds(key))
            .max_by_key(|(key, _)| key.len);
        let entry = longest
            .map(|(_, entry)| *entry)
            .filter(|entry| !has_ended(*entry, now));
        entry.map(rule)
    }
}

#[test]
fn networks_survive_the_way_into_the_map_and_back() {
    for text in [
        "10.0.0.0/8",
        "0.0.0.0/0",
        "192.0.2.1/32",
        "::/0",
        "::/80",
        "2001:db8::/32",
        "2001:db8::1/128",
    ] {
        assert_eq!(net(&key(text)), Some(ip_net(text)), "{text}");
    }
    assert_eq!(key("10.0.0.0/8").len, 104);
}

#[test]
fn a_reload_replaces_the_configurations_entries_and_no_others() {
    let mut map = Map::default();
    map.apply(|held| held.configure(&lists(&["10.0.0.0/8"], &["192.0.2.0/24", "2001:db8::/32"])));
    assert_eq!(map.entries.len(), 3);
    assert_eq!(map.at("10.0.0.0/8"), Some(ALLOW));
    map.operate("198.51.100.0/24", Some(BAN));
    map.entries.insert(
        key("203.0.113.9/32"),
        ListEntry {
            until: 500,
            flags: list::OVERLOAD,
        },
    );

    let ops = map.apply(|held| held.configure(&lists(&["10.0.0.0/8"], &["192.0.3.0/24"])));
    assert_eq!(ops.len(), 3, "one added, two gone: {ops:?}");
    assert!(matches!(ops[0], ListOp::Set(..)), "what is added comes first");
    assert!(map.at("198.51.100.0/24").is_some() && map.at("203.0.113.9/32").is_some());
    assert_eq!(
        map.apply(|held| held.configure(&lists(&["10.0.0.0/8"], &["192.0.3.0/24"]))),
        []
    );
    // In both lists: who lets in has said the more particular thing.
    map.apply(|held| held.configure(&lists(&["10.0.0.0/8"], &["10.0.0.0/8"])));
    assert_eq!(map.at("10.0.0.0/8"), Some(ALLOW));
}

#[test]
fn an_operators_entry_lies_above_the_configurations() {
    let mut map = Map::default();
    map.apply(|held| held.configure(&lists(&[], &["10.0.0.0/8"])));
    let allowed = ListEntry { until: 100, ..ALLOW };
    map.operate("10.0.0.0/8", Some(allowed));
    assert_eq!(map.at("10.0.0.0/8"), Some(allowed));
    assert_eq!(map.held.len(), 1);
    assert_eq!(map.apply(|held| held.configure(&lists(&[], &["10.0.0.0/8"]))), []);
    assert!(!map.held.has_ended(100));
    assert_eq!(map.apply(|held| held.expire(100)), []);
    map.apply(|held| held.expire(101));
    assert_eq!(map.at("10.0.0.0/8"), Some(BAN), "the other is there again");
    map.apply(|held| held.configure(&lists(&[], &[])));
    assert!(map.entries.is_empty());
}

#[test]
fn all_of_ipv6_is_not_all_of_ipv4() {
    let mut map = Map::default();
    map.apply(|held| held.configure(&lists(&[], &["::/0"])));
    assert_eq!(map.rule("2001:db8::1", 1000), Some(Rule::Ban));
    assert_eq!(map.rule("192.0.2.1", 1000), None);
    map.operate("192.0.2.0/24", Some(ALLOW));
    assert_eq!(map.rule("192.0.2.1", 1000), Some(Rule::Allow));
    // All of IPv4 has the place of the guard.
    map.operate("0.0.0.0/0", Some(BAN));
    assert_eq!(map.rule("198.51.100.1", 1000), Some(Rule::Ban));
    map.operate("0.0.0.0/0", None);
    assert_eq!(map.rule("198.51.100.1", 1000), None);
    assert_eq!(
        map.held.listed(&IPV4, GUARD, 1000),
        None,
        "it is no entry of anybody"
    );

    let ops = map.apply(|held| held.configure(&lists(&[], &["2001:db8::/32"])));
    assert_eq!(ops.last(), Some(&ListOp::Delete(IPV4)), "the guard goes last");
    let ops = map.apply(|held| held.configure(&lists(&[], &["::/1"])));
    assert_eq!(ops.first(), Some(&ListOp::Set(IPV4, GUARD)), "and comes first");
}

#[test]
fn a_successor_tells_whose_is_what() {
    let mut map = Map::default();
    map.apply(|held| held.configure(&lists(&[], &["10.0.0.0/8", "::/0"])));
    let until = ListEntry { until: 100, ..BAN };
    map.operate("192.0.2.0/24", Some(until));
    map.operate("192.0.3.0/24", Some(BAN));
    let overload = ListEntry {
        until: 70,
        flags: list::OVERLOAD,
    };
    map.entries.insert(key("203.0.113.9/32"), overload);

    let read = |operators: &HashMap<_, _>| Held::read(map.entries.clone(), operators.clone());
    assert_eq!(read(map.held.operators()), (map.held.clone(), vec![], true));
    // What is in the file and not in the map is written; what is nobody's is the configuration's to take away.
    let mut other = map.held.operators().clone();
    other.remove(&key("192.0.3.0/24"));
    other.insert(key("192.0.4.0/24"), ALLOW);
    let (mut held, ops, _) = read(&other);
    assert_eq!(ops, [ListOp::Set(key("192.0.4.0/24"), ALLOW)]);
    let ops = held.configure(&lists(&[], &["10.0.0.0/8", "::/0"]));
    assert_eq!(ops, [ListOp::Delete(key("192.0.3.0/24"))]);

    assert_eq!(overload_ended(map.entries.clone(), 70), (vec![], 1));
    assert_eq!(
        overload_ended(map.entries.clone(), 71),
        (vec![key("203.0.113.9/32")], 0)
    );
    let listed = |text, entry| map.held.listed(&key(text), entry, 40).unwrap();
    let found = listed("192.0.2.0/24", until);
    assert_eq!(
        (found.rule, found.origin, found.left),
        (Rule::Ban, Origin::Operator, Some(Duration::from_secs(60)))
    );
    assert_eq!(listed("10.0.0.0/8", BAN).origin, Origin::Configuration);
    assert_eq!(listed("203.0.113.9/32", overload).origin, Origin::Overload);
    assert_eq!(
        map.held.listed(&key("203.0.113.9/32"), overload, 71),
        None,
        "it has ended"
    );
}

#[test]
fn the_file_gives_back_what_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(dir.path()).unwrap(), None);
    let operators = HashMap::from([
        (key("10.0.0.0/8"), ALLOW),
        (key("2001:db8::/32"), ListEntry { until: 7, ..BAN }),
    ]);
    store(dir.path(), &operators).unwrap();
    assert_eq!(load(dir.path()).unwrap(), Some(operators));
    fs::write(
        file(dir.path()),
        r#"[{"address":"10.0.0.1","prefix":8,"allow":true,"until":0}]"#,
    )
    .unwrap();
    assert!(load(dir.path()).is_err(), "host bits are set");
    store(dir.path(), &HashMap::new()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
}

const NETS: [&str; 6] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "::/80",
    "2001:db8::/32",
];

proptest! {
    /// Whatever was done before: the map holds what the operators say, else what the configuration says.
    #[test]
    fn any_sequence_of_changes_leads_to_what_was_said(
        steps in prop::collection::vec((0_usize..4, 0_usize..6, 0_u32..40, any::<u8>()), 1..30)
    ) {
        let mut map = Map::default();
        for (what, which, now, bits) in steps {
            match what {
                0 => map.operate(NETS[which], Some(ListEntry { until: bits.into(), ..BAN })),
                1 => map.operate(NETS[which], None),
                2 => drop(map.apply(|held| held.expire(now))),
                _ => {
                    let some = |shift: u8| -> Vec<_> {
                        (0..6).filter(|n| bits >> ((n + shift) % 8) & 1 != 0).map(|n| NETS[usize::from(n)]).collect()
                    };
                    map.apply(|held| held.configure(&lists(&some(0), &some(3))));
                }
            }
            let mut expected = map.held.configured.clone();
            expected.extend(map.held.operators.clone());
            if expected.contains_key(&key("::/0")) || expected.contains_key(&key("::/80")) {
                expected.entry(IPV4).or_insert(GUARD);
            }
            prop_assert_eq!(&map.entries, &expected);
        }
    }
}
