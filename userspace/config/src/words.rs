//! Words in messages: quoting what an operator wrote, and guessing what was meant.
//!
//! Owns how foreign text appears in a message: short, on one line, without control characters. Never decides whether
//! something is a mistake.

/// Longest piece of foreign text shown, in characters.
const SHOWN: usize = 64;
/// Words longer than this are not guessed at: the comparison's cost is the product of the lengths.
const GUESSED: usize = 64;
/// Comparisons that one run may spend on guesses, so that a file of nothing but mistakes stays cheap.
const COMPARISONS: u32 = 200_000;

/// The text in backquotes, as [`plain`] shows it.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", plain(text))
}

/// The text shortened, control characters escaped: every piece of foreign text in a message goes through here.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(SHOWN));
    let mut chars = text.chars();
    for c in chars.by_ref().take(SHOWN) {
        if c.is_control() || is_bidi_or_invisible(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

/// Characters that would make a message read otherwise than it is: direction marks, zero-width, line separators.
const fn is_bidi_or_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `a, b and c`.
pub(crate) fn listed<S: AsRef<str>>(words: &[S], last: &str) -> String {
    match words {
        [] => "nothing".into(),
        [one] => one.as_ref().into(),
        [head @ .., tail] => {
            let head: Vec<_> = head.iter().map(AsRef::as_ref).collect();
            format!("{} {last} {}", head.join(", "), tail.as_ref())
        }
    }
}

/// Guesses at what was meant, within a budget.
#[derive(Debug)]
pub(crate) struct Guesser {
    left: u32,
}

impl Guesser {
    pub(crate) const fn new() -> Self {
        Self { left: COMPARISONS }
    }

    /// The candidate nearest to the word, if one is near enough to be a slip of the keys.
    pub(crate) fn guess<'c>(
        &mut self,
        word: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> Option<&'c str> {
        if word.is_empty() || word.len() > GUESSED {
            return None;
        }
        let folded = fold(word);
        let mut best: Option<(usize, &str)> = None;
        for candidate in candidates {
            self.left = self.left.checked_sub(1)?;
            if candidate.len() > GUESSED {
                continue;
            }
            let distance = strsim::osa_distance(&folded, &fold(candidate));
            if distance <= allowed(word) && best.is_none_or(|(d, _)| distance < d) {
                best = Some((distance, candidate));
            }
        }
        best.map(|(_, candidate)| candidate)
    }
}

/// Case, `-` and `_` do not count: they are what is mistaken most.
fn fold(word: &str) -> String {
    word.chars()
        .map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() })
        .collect()
}

const fn allowed(word: &str) -> usize {
    match word.len() {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_on_one_line() {
        assert_eq!(quoted("a\nb\u{1b}[31m"), "`a\\nb\\u{1b}[31m`");
        assert_eq!(quoted("\u{202e}x"), "`\\u{202e}x`");
        assert_eq!(quoted("ä"), "`ä`");
        assert_eq!(quoted(&"x".repeat(65)), format!("`{}…`", "x".repeat(64)));
        assert_eq!(quoted(&"x".repeat(64)), format!("`{}`", "x".repeat(64)));
    }

    #[test]
    fn lists_read_as_sentences() {
        assert_eq!(listed::<&str>(&[], "and"), "nothing");
        assert_eq!(listed(&["a"], "and"), "a");
        assert_eq!(listed(&["a", "b", "c"], "or"), "a, b or c");
    }

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let words = ["interval", "timeout", "rise", "fall", "keep_alive"];
        let mut guesser = Guesser::new();
        for (word, expected) in [
            ("intervall", Some("interval")),
            ("timeuot", Some("timeout")),
            ("Rise", Some("rise")),
            ("keep-alive", Some("keep_alive")),
            ("weight", None),
            ("", None),
        ] {
            assert_eq!(guesser.guess(word, words), expected, "{word}");
        }
    }

    #[test]
    fn guessing_ends_with_its_budget() {
        let mut guesser = Guesser { left: 3 };
        assert_eq!(guesser.guess("fal", ["fall"]), Some("fall"));
        assert_eq!(guesser.guess("fal", ["a", "b", "fall"]), None);
        assert_eq!(guesser.guess("fal", ["fall"]), None);
    }
}
