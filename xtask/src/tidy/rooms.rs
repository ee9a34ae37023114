//! The rooms: which crate may use which.
//!
//! The table in ARCHITECTURE.md is the rule itself, read from there, so the two can't drift apart. What the table can't
//! say (crates of others that belong to one room only) stands here.

use serde_json::Value;

use super::Finding;

/// Crates of ours that use nothing but Rust and each other: they run in the kernel, or must not do I/O.
const PURE: [&str; 3] = ["weir-abi", "weir-fastpath", "weir-core"];

/// Crates of others that only these rooms may use (tests of a room may use what they like).
const CONFINED: [(&str, &[&str]); 6] = [
    ("aya-ebpf", &["weir-ebpf"]),
    ("aya", &["weir-datapath", "weir-dataplane-tests"]),
    ("aya-obj", &["weir-datapath", "weir-dataplane-tests"]),
    ("rtnetlink", &["weir-datapath"]),
    ("toml", &["weir-config"]),
    (
        "tokio",
        &[
            "weir-datapath",
            "weir-relay",
            "weir-health",
            "weir",
            "weir-harness",
            "weir-e2e-tests",
        ],
    ),
];

/// The files that must say `forbid(unsafe_code)`.
pub(super) const SAFE_ROOTS: [&str; 10] = [
    "ebpf/abi/src/lib.rs",
    "userspace/core/src/lib.rs",
    "userspace/config/src/lib.rs",
    "userspace/relay/src/lib.rs",
    "userspace/health/src/lib.rs",
    "userspace/tls/src/lib.rs",
    "tests/conformance/src/lib.rs",
    "tests/harness/src/lib.rs",
    "tests/e2e/src/lib.rs",
    "xtask/src/main.rs",
];

/// Whether a crate's root forbids unsafe code.
pub(super) fn forbids_unsafe(root: &str, text: &str) -> Option<Finding> {
    let says = text.lines().any(|l| l.trim() == "#![forbid(unsafe_code)]");
    (!says).then(|| {
        Finding::new(
            root,
            "this crate does without unsafe code: say #![forbid(unsafe_code)]",
        )
    })
}

/// Holds `metadata` (of `cargo metadata`) against the table in `architecture`.
pub(super) fn check(architecture: &str, metadata: &Value) -> Vec<Finding> {
    let (rules, mut findings) = table(architecture);
    let packages = metadata
        .get("packages")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let members: Vec<_> = packages
        .iter()
        .filter(|p| p.get("source").is_none_or(Value::is_null))
        .collect();
    for package in &members {
        let Some(name) = text(package, "name") else {
            continue;
        };
        let manifest = text(package, "manifest_path").unwrap_or_default();
        let room = manifest.strip_suffix("/Cargo.toml").unwrap_or_default();
        let Some(Row { allowed, .. }) = rules.iter().find(|row| row.is_for(&name, room)) else {
            findings.push(Finding::new(
                name,
                "this crate has no row in the table of rooms in ARCHITECTURE.md",
            ));
            continue;
        };
        let dependencies = package
            .get("dependencies")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        for dependency in dependencies {
            let Some(used) = text(dependency, "name") else {
                continue;
            };
            let in_tests = text(dependency, "kind").as_deref() == Some("dev");
            let ours = dependency.get("source").is_none_or(Value::is_null);
            let problem = match (ours, in_tests) {
                (true, _) => {
                    (!allowed.permits(&used)).then_some("ARCHITECTURE.md does not let this room use it")
                }
                (false, true) => None,
                (false, false) => foreign(&name, &used),
            };
            findings.extend(problem.map(|why| Finding::new(&name, format!("uses {used}: {why}"))));
        }
    }
    for row in rules.iter().filter(|row| !row.name.is_empty()) {
        if !members
            .iter()
            .any(|p| text(p, "name").as_ref() == Some(&row.name))
        {
            let what = format!("its table has {}, the workspace has not", row.name);
            findings.push(Finding::new("ARCHITECTURE.md", what));
        }
    }
    findings
}

/// Why a crate of ours may not use a crate of others.
fn foreign(name: &str, used: &str) -> Option<&'static str> {
    if PURE.contains(&name) {
        return Some("this room does without crates of others");
    }
    let (_, rooms) = CONFINED.iter().find(|(confined, _)| *confined == used)?;
    (!rooms.contains(&name)).then_some("it belongs to another room")
}

/// What a room may use.
#[derive(Debug, PartialEq, Eq)]
enum Allowed {
    All,
    Only(Vec<String>),
}

impl Allowed {
    fn permits(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.iter().any(|n| n == name),
        }
    }
}

/// A row of the table of rooms.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// Directories, relative to the root.
    rooms: Vec<String>,
    /// The crate; empty in a row of several.
    name: String,
    allowed: Allowed,
}

impl Row {
    /// Whether it speaks of the crate of that name, in the directory `room`.
    fn is_for(&self, name: &str, room: &str) -> bool {
        let lies_here = |r: &String| {
            room.strip_suffix(r.as_str())
                .is_some_and(|rest| rest.ends_with('/'))
        };
        if self.name.is_empty() {
            self.rooms.iter().any(lies_here)
        } else {
            self.name == name
        }
    }
}

/// Reads the rows `| room | crate | may use | owns |` of the table of rooms.
fn table(architecture: &str) -> (Vec<Row>, Vec<Finding>) {
    let cells = |line: &str| -> Vec<String> { line.split('|').map(|c| c.trim().replace('`', "")).collect() };
    let is_head = |line: &str| cells(line).starts_with(&[String::new(), "room".into(), "crate".into()]);
    let lines = architecture.lines().skip_while(|l| !is_head(l));
    let all: Vec<_> = lines
        .skip(2)
        .take_while(|l| l.starts_with('|'))
        .map(cells)
        .collect();
    let mut findings = Vec::new();
    if all.is_empty() {
        let what = "there is no table with the columns room, crate, may use, owns";
        findings.push(Finding::new("ARCHITECTURE.md", what));
    }
    let crates: Vec<&str> = all
        .iter()
        .filter_map(|row| row.get(2))
        .map(String::as_str)
        .collect();
    let mut rows = Vec::new();
    for row in &all {
        let (Some(rooms), Some(name), Some(may_use)) = (row.get(1), row.get(2), row.get(3)) else {
            continue;
        };
        let words: Vec<_> = may_use
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .collect();
        let has = |word: &str| words.contains(&word);
        let is_named = |c: &&str| !c.is_empty() && (has(c) || has(c.trim_start_matches("weir-")));
        let named: Vec<_> = crates
            .iter()
            .copied()
            .filter(is_named)
            .map(str::to_owned)
            .collect();
        if named.is_empty() && !["all", "public", "nothing", "none"].into_iter().any(has) {
            let what = format!("what may {rooms} use? `{may_use}` names no room (or: all, nothing)");
            findings.push(Finding::new("ARCHITECTURE.md", what));
        }
        rows.push(Row {
            rooms: rooms.split(", ").map(str::to_owned).collect(),
            name: name.clone(),
            allowed: if has("all") || has("public") {
                Allowed::All
            } else {
                Allowed::Only(named)
            },
        });
    }
    (rows, findings)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TABLE: &str = "text\n\n| room | crate | may use | owns |\n|---|---|---|---|\n\
        | `ebpf/abi` | weir-abi | nothing | layouts |\n\
        | `userspace/core` | weir-core | abi | plan |\n\
        | `userspace/relay` | weir-relay | core | relay |\n\
        | `userspace/weir` | weir | all | the rest |\n\
        | `tests/a`, `tests/b` | | public interfaces | tests |\n\nmore | text\n";

    fn package(name: &str, dependencies: &[(&str, bool, Option<&str>)]) -> Value {
        let dependency = |(name, ours, kind): &(&str, bool, Option<&str>)| json!({ "name": name, "source": (!ours).then_some("registry"), "kind": kind });
        let dependencies: Vec<_> = dependencies.iter().map(dependency).collect();
        json!({ "name": name, "source": null, "dependencies": dependencies })
    }

    fn found(packages: &[Value]) -> Vec<String> {
        let findings = check(TABLE, &json!({ "packages": packages }));
        findings
            .into_iter()
            .map(|f| format!("{}: {}", f.place, f.what))
            .collect()
    }

    fn good() -> Vec<Value> {
        vec![
            package("weir-abi", &[]),
            package(
                "weir-core",
                &[("weir-abi", true, None), ("proptest", false, Some("dev"))],
            ),
            package("weir-relay", &[("weir-core", true, None), ("tokio", false, None)]),
            package("weir", &[("weir-relay", true, None), ("weir-abi", true, None)]),
        ]
    }

    #[test]
    fn a_good_tree_has_no_findings() {
        assert_eq!(found(&good()), [""; 0]);
    }

    #[test]
    fn each_rule_bites() {
        let cases: [(usize, Value, &str); 6] = [
            (
                0,
                package("weir-abi", &[("libc", false, None)]),
                "weir-abi: uses libc: this room does without",
            ),
            (
                1,
                package("weir-core", &[("weir-relay", true, None)]),
                "weir-core: uses weir-relay: ARCHITECTURE.md does",
            ),
            (
                2,
                package("weir-relay", &[("weir-abi", true, Some("dev"))]),
                "weir-relay: uses weir-abi: ARCHITECTURE",
            ),
            (
                2,
                package("weir-relay", &[("aya", false, None)]),
                "weir-relay: uses aya: it belongs to another room",
            ),
            (
                3,
                package("weir", &[("toml", false, None)]),
                "weir: uses toml: it belongs to another room",
            ),
            (3, package("weir-new", &[]), "weir-new: this crate has no row"),
        ];
        for (place, bad, expected) in cases {
            let mut packages = good();
            packages[place] = bad;
            let found = found(&packages);
            assert!(
                found.iter().any(|f| f.starts_with(expected)),
                "{expected}: {found:?}"
            );
        }
    }

    #[test]
    fn a_crate_may_be_named_by_its_room() {
        let mut packages = good();
        let mut tests = package("weir-b-tests", &[("weir-core", true, None)]);
        tests["manifest_path"] = "/somewhere/tests/b/Cargo.toml".into();
        packages.push(tests.clone());
        assert_eq!(found(&packages), [""; 0]);
        tests["manifest_path"] = "/somewhere/tests/bb/Cargo.toml".into();
        packages.push(tests);
        assert_eq!(found(&packages).len(), 1);
    }

    #[test]
    fn a_table_that_says_nothing_is_found() {
        assert!(!check("no table", &json!({ "packages": [] })).is_empty());
        let (_, findings) = table(&TABLE.replace("| core | relay", "| whatever | relay"));
        assert_eq!(findings.len(), 1, "{findings:?}");
    }

    #[test]
    fn words_beside_the_rooms_are_for_people() {
        for cell in [
            "none of ours (relay for the demo)",
            "weir-relay, for the demo's lab",
        ] {
            let (rows, findings) = table(&TABLE.replace("| nothing |", &format!("| {cell} |")));
            let expected = Allowed::Only(vec!["weir-relay".into()]);
            assert_eq!(rows.first().map(|r| &r.allowed), Some(&expected), "{cell}");
            assert_eq!(findings, []);
        }
    }

    #[test]
    fn unsafe_must_be_forbidden() {
        assert!(forbids_unsafe("x", "//! Doc.\n#![forbid(unsafe_code)]\n").is_none());
        assert!(forbids_unsafe("x", "//! #![forbid(unsafe_code)]\n").is_some());
    }
}
