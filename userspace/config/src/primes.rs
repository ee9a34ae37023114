//! Primes, for the size of Maglev rings.

use crate::units::Trouble;

/// Whether the number is a prime. Trial division: at most 32 768 steps.
pub(crate) const fn is_prime(n: u32) -> bool {
    if n < 4 {
        return n >= 2;
    }
    if n.is_multiple_of(2) {
        return false;
    }
    let mut d = 3;
    while d <= n / d {
        if n.is_multiple_of(d) {
            return false;
        }
        d += 2;
    }
    true
}

/// Says that the number is no prime, and which are next to it.
pub(crate) fn trouble(n: u32) -> Trouble {
    let below = (2..n).rev().find(|&p| is_prime(p));
    let above = (n.saturating_add(1)..=u32::MAX).find(|&p| is_prime(p));
    let near: Vec<_> = below.into_iter().chain(above).map(|p| p.to_string()).collect();
    Trouble::new(
        format!("is {n}, which is no prime"),
        format!("the next primes are {}", near.join(" and ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_agree_with_a_sieve() {
        let mut composite = vec![false; 2000];
        for n in 2..2000usize {
            assert_eq!(is_prime(n as u32), !composite[n], "{n}");
            for multiple in (2 * n..2000).step_by(n) {
                composite[multiple] = true;
            }
        }
        assert!(!is_prime(0) && !is_prime(1));
        assert!(is_prime(65_537) && is_prime(655_373) && is_prime(4_294_967_291));
        assert!(!is_prime(u32::MAX) && !is_prime(65_536));
    }

    #[test]
    fn the_neighbours_are_named() {
        assert_eq!(
            trouble(65_536),
            Trouble::new(
                "is 65536, which is no prime",
                "the next primes are 65521 and 65537"
            )
        );
        assert_eq!(trouble(1).mend, "the next primes are 2");
    }
}
