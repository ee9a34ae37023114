//! The form of each file.
//!
//! Pure functions of a path and its content; reading and reporting is `tidy`'s.

use std::path::{Component, Path, PathBuf};

use super::Finding;

/// The most lines of a Rust file, its tests not counted.
const MOST_LINES: usize = 600;
/// The most bytes of any file: sources, docs and seeds of a corpus are smaller.
const MOST_BYTES: usize = 512 * 1024;
/// What a file that some build left begins with: ELF, ar, LLVM bitcode, gzip, zip, zstd.
const BUILT: [&[u8]; 6] = [
    b"\x7fELF",
    b"!<arch>",
    b"BC\xc0\xde",
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"\x28\xb5\x2f\xfd",
];
/// Beginnings of paths that exist on one machine only.
const FOREIGN: [&str; 4] = [
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/ro", "ot/"),
    concat!("/tmp/tar", "get"),
];
/// What stands in a file that is not yet written.
const PLACEHOLDER: &str = concat!("(being ", "written)");

/// What is wrong with the file at `path` (relative to the root).
pub(super) fn check(path: &str, bytes: &[u8]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |what: String| findings.push(Finding::new(path, what));
    let is_seed = path.contains("/corpus/");
    if !is_seed && BUILT.iter().any(|magic| bytes.starts_with(magic)) {
        find("something built or packed: it must not be committed".into());
    }
    if bytes.len() > MOST_BYTES {
        find(format!(
            "{} bytes, {MOST_BYTES} at most: is it needed?",
            bytes.len()
        ));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        if !is_seed && !path.ends_with(".png") {
            find("not UTF-8 text".into());
        }
        return findings;
    };
    if !is_seed {
        for (i, line) in text.lines().enumerate() {
            if let Some(start) = FOREIGN.iter().find(|start| has_path(line, start)) {
                find(format!(
                    "line {}: a path below {start} exists on one machine only",
                    i + 1
                ));
            }
            if line.contains(PLACEHOLDER) {
                find(format!("line {}: a placeholder is left", i + 1));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            find("the last line has no end".into());
        }
    }
    if path.ends_with(".rs") {
        rust(path, text, &mut find);
    }
    findings
}

/// Whether `line` has a path that begins with `start`, not only contains it further on.
fn has_path(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        let before = line.get(..at).and_then(|b| b.chars().next_back());
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || "_-.}*".contains(c))
    })
}

fn rust(path: &str, text: &str, find: &mut impl FnMut(String)) {
    if !text.starts_with("//!") {
        find("does not open with `//!`: what it owns, what it never does, who does the rest".into());
    }
    if path.ends_with("/mod.rs") {
        find("a module is foo.rs with foo/ beside it, not foo/mod.rs".into());
    }
    let all_tests = path.ends_with("/tests.rs") || path.starts_with("tests/") || path.contains("/tests/");
    let lines = lines_without_tests(text);
    if !all_tests && lines > MOST_LINES {
        find(format!(
            "{lines} lines without its tests, {MOST_LINES} at most: split it"
        ));
    }
}

/// Lines before the tests that end the file.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<_> = text.lines().collect();
    let begin = lines
        .windows(2)
        .position(|two| two == ["#[cfg(test)]", "mod tests {"]);
    begin.unwrap_or(lines.len())
}

/// Links of a Markdown file to files that are not there; `exists` is asked with paths relative to the root.
pub(super) fn dead_links(path: &str, bytes: &[u8], exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let (Ok(text), true) = (std::str::from_utf8(bytes), path.ends_with(".md")) else {
        return Vec::new();
    };
    let dir = Path::new(path).parent().unwrap_or_else(|| Path::new(""));
    let mut findings = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            if normal(&dir.join(file)).is_none_or(|target| !exists(&target)) {
                findings.push(Finding::new(
                    format!("{path}:{}", i + 1),
                    format!("the link to {link} leads nowhere"),
                ));
            }
        }
    }
    findings
}

/// The path without `.` and `..`; `None` when it leaves the checkout.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => normal.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, bytes: &[u8]) -> Vec<String> {
        check(path, bytes).into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn good_files_have_no_findings() {
        let long_tests = format!(
            "//! Doc.\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "    // x\n".repeat(700)
        );
        let long = format!("//! Doc.\n{}", "// x\n".repeat(700));
        let cases: [(&str, &[u8]); 7] = [
            ("xtask/src/a.rs", b"//! Doc.\n"),
            ("xtask/src/b.rs", long_tests.as_bytes()),
            ("userspace/core/src/health/tests.rs", long.as_bytes()),
            ("tests/e2e/tests/both.rs", long.as_bytes()),
            (
                "docs/x.md",
                b"see /etc/weir/weir.toml and https://x.example/home/y\n",
            ),
            ("tests/fuzz/corpus/packet/1", b"\x7fELF\xff"),
            ("empty", b""),
        ];
        for (path, bytes) in cases {
            assert_eq!(found(path, bytes), [""; 0], "{path}");
        }
    }

    #[test]
    fn each_rule_bites() {
        let long = format!("//! Doc.\n{}", "// x\n".repeat(600));
        let home = format!("see {}someone/x\n", FOREIGN[0]);
        let root = format!("let p = \"{}x\";\n", FOREIGN[2]);
        let placeholder = format!("//! {PLACEHOLDER}\n");
        let cases: [(&str, &[u8], &str); 9] = [
            ("a/src/a.rs", b"// Doc.\n", "does not open with"),
            ("a/src/b/mod.rs", b"//! Doc.\n", "not foo/mod.rs"),
            ("a/src/a.rs", long.as_bytes(), "601 lines"),
            ("a/weir.o", b"\x7fELF\x02", "something built"),
            ("a/big.md", &[b'x'; MOST_BYTES + 1], "at most"),
            ("docs/a.md", home.as_bytes(), "line 1: a path below"),
            ("a/src/a.txt", root.as_bytes(), "line 1: a path below"),
            ("a/src/a.rs", placeholder.as_bytes(), "a placeholder is left"),
            ("docs/a.md", b"\xff\n", "not UTF-8"),
        ];
        for (path, bytes, expected) in cases {
            let found = found(path, bytes);
            assert!(
                found.iter().any(|f| f.contains(expected)),
                "{path}, {expected}: {found:?}"
            );
        }
    }

    #[test]
    fn links_lead_somewhere() {
        let text = b"[a](b.md) [c](../README.md#top) [d](#here) [e](https://x.example/)\n[f](gone.md) [g](../../out)\n";
        let exists = |path: &Path| [Path::new("docs/b.md"), Path::new("README.md")].contains(&path);
        let findings = dead_links("docs/a.md", text, exists);
        assert_eq!(
            findings.iter().map(|f| f.place.as_str()).collect::<Vec<_>>(),
            ["docs/a.md:2"; 2],
            "{findings:?}"
        );
        assert_eq!(dead_links("docs/a.txt", text, exists), []);
    }
}
