//! Names that stand in the code and in the docs.
//!
//! Each reason of a verdict, and each note beside it, has one name for counter, log and docs: here the docs are held to
//! the code. The code is read as text, since xtask builds without weir's own crates.

use super::Finding;

/// Where operators read what a reason means.
pub(super) const DOC: &str = "docs/reasons.md";

/// Compares the names in the source of `weir_abi::reason` with the first column of the tables in the doc.
pub(super) fn reasons(source: &str, doc: Option<&str>) -> Vec<Finding> {
    let in_code = names(source);
    if in_code.is_empty() {
        return vec![Finding::new(
            "ebpf/abi/src/reason.rs",
            "no names found: has its form changed? mend tidy/names.rs",
        )];
    }
    let Some(doc) = doc else {
        return vec![Finding::new(DOC, "is missing: it explains each reason")];
    };
    let in_doc: Vec<&str> = doc.lines().filter_map(row).collect();
    let mut findings = Vec::new();
    for name in &in_code {
        match in_doc.iter().filter(|d| *d == name).count() {
            0 => findings.push(Finding::new(DOC, format!("has no row for the reason `{name}`"))),
            1 => {}
            n => findings.push(Finding::new(DOC, format!("has {n} rows for the reason `{name}`"))),
        }
    }
    for name in in_doc.iter().filter(|d| !in_code.contains(d)) {
        findings.push(Finding::new(
            DOC,
            format!("explains `{name}`, which the code does not know"),
        ));
    }
    findings
}

/// The name in a row of the doc, such as ``| `not-ip` | … |``.
fn row(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("| `")?.split('`').next()
}

/// The names in the source: `Variant = 3, "name", Verdict;` for reasons, `Self::Variant => "name",` for notes.
fn names(source: &str) -> Vec<&str> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let quoted = |line: &'_ str| -> Option<(usize, usize)> {
        let start = line.find('"')? + 1;
        Some((start, start + line.get(start..)?.find('"')?))
    };
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let of_line = |line| {
        let line: &str = str::trim(line);
        let (start, end) = quoted(line)?;
        let (before, name) = (line.get(..start)?, line.get(start..end)?);
        let declares = !line.starts_with("//") && (before.contains(" = ") || before.contains(" => "));
        (declares && is_name(name)).then_some(name)
    };
    code.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
reasons! {
    /// Doc with "a word".
    ForwardNat = 0, "forward-nat", Forward;
    NotIp = 2, "not-ip", Pass;
}
impl Note {
    pub const fn name(self) -> &'static str {
        match self { Self::FlowHit => "flow-hit" }
    }
}
#[cfg(test)]
mod tests { const X: &str = "x"; }
"#;

    #[test]
    fn names_come_from_the_source() {
        assert_eq!(names(SOURCE), ["forward-nat", "not-ip", "flow-hit"]);
    }

    #[test]
    fn the_doc_is_held_to_the_code() {
        let doc = "| reason | x |\n|---|---|\n| `forward-nat` | a |\n| `not-ip` | b |\n| `flow-hit` | c |\n";
        assert_eq!(reasons(SOURCE, Some(doc)), []);
        assert_eq!(reasons(SOURCE, None).len(), 1);
        assert_eq!(
            reasons(SOURCE, Some(&doc.replace("| `not-ip` | b |\n", ""))).len(),
            1
        );
        assert_eq!(reasons(SOURCE, Some(&doc.replace("not-ip", "no-ip"))).len(), 2);
        assert_eq!(
            reasons(SOURCE, Some(&format!("{doc}| `flow-hit` | again |\n"))).len(),
            1
        );
        assert_eq!(reasons("", Some(doc)).len(), 1);
    }
}
