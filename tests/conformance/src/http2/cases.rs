//! The cases, by topic. Sections are those of RFC 9113; `7540-` and `7541-` are before those of the older RFC and of HPACK's.
//!
//! What h2spec looks at is all here, case for case, by what the RFCs say; RFC 9113 has numbered some sections anew: the
//! preface (3.5 there) is 3.4, field names (8.1.2) are 8.2, pseudo-fields (8.1.2.1 and 8.1.2.3) 8.3 and 8.3.1, fields of a
//! connection (8.1.2.2) 8.2.2, lengths of bodies (8.1.2.6) 8.1.1, push (8.2) 8.4.

use super::case::Case;

mod flow;
mod hpack;
mod messages;
mod sound;
mod streams;
mod wire;

/// All of them.
pub fn all() -> Vec<Case> {
    let mut all = sound::cases();
    all.extend(wire::cases());
    all.extend(streams::cases());
    all.extend(flow::cases());
    all.extend(messages::cases());
    all.extend(hpack::cases());
    all
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unique_and_name_their_section() {
        let all = super::all();
        let mut names: Vec<_> = all.iter().map(|case| case.id).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for name in names {
            let (section, words) = name.split_once('/').expect(name);
            assert!(section.starts_with(|c: char| c.is_ascii_digit()), "{name}");
            assert!(!words.is_empty() && !words.contains(' '), "{name}");
        }
    }
}
