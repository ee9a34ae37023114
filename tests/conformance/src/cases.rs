//! The table of cases, by topic.

use crate::case::Case;

mod bodies;
mod connection;
mod framing;
mod heads;
mod limits;
mod methods;
mod responses;
mod targets;
mod tunnels;

/// Every case.
pub fn all() -> Vec<Case> {
    [
        framing::cases(),
        heads::cases(),
        targets::cases(),
        methods::cases(),
        connection::cases(),
        bodies::cases(),
        responses::cases(),
        limits::cases(),
        tunnels::cases(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_expects_something() {
        let all = all();
        let mut names: Vec<_> = all.iter().map(|case| case.id).collect();
        names.sort_unstable();
        for pair in names.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        for case in &all {
            assert!(!case.rfc.is_empty() && case.steps.len() >= 2, "{}", case.id);
        }
        assert!(all.len() >= 200, "{} cases", all.len());
    }
}
