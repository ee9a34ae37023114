//! The choice, by tables and properties.

use proptest::prelude::*;

use super::*;

/// Candidates with their weights and what they have in flight.
#[derive(Clone, Debug)]
struct Pool {
    weights: Vec<u16>,
    in_flight: Vec<u32>,
}

impl Pool {
    fn new(weights: &[u16]) -> Self {
        Self {
            weights: weights.to_vec(),
            in_flight: vec![0; weights.len()],
        }
    }

    fn total(&self) -> usize {
        self.weights.iter().map(|w| usize::from(*w)).sum()
    }
}

impl Candidates for Pool {
    fn count(&self) -> usize {
        self.weights.len()
    }

    fn weight(&self, index: usize) -> u16 {
        self.weights[index]
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.in_flight[index]
    }
}

fn tried(indexes: &[usize]) -> Tried {
    let mut tried = Tried::NONE;
    assert!(indexes.iter().all(|index| tried.insert(*index)));
    tried
}

fn picks(balancer: &mut Balancer, pool: &Pool, count: usize) -> Vec<usize> {
    (0..count)
        .map(|_| balancer.pick(pool, &Tried::NONE).unwrap())
        .collect()
}

fn shares(picks: &[usize], backends: usize) -> Vec<u16> {
    let mut shares = vec![0; backends];
    picks.iter().for_each(|index| shares[*index] += 1);
    shares
}

const BOTH: [Balance; 2] = [Balance::RoundRobin, Balance::LeastConnections];

#[test]
fn the_published_example() {
    let pool = Pool::new(&[5, 1, 1]);
    let mut balancer = Balancer::new(Balance::RoundRobin, 3, 0);
    let names: String = picks(&mut balancer, &pool, 14)
        .iter()
        .map(|i| ['a', 'b', 'c'][*i])
        .collect();
    assert_eq!(names, "aabacaaaabacaa");
}

#[test]
fn workers_begin_with_different_backends() {
    let pool = Pool::new(&[3, 3, 3]);
    for balance in BOTH {
        for (worker, expected) in [
            (0, [0, 1, 2, 0]),
            (1, [1, 2, 0, 1]),
            (2, [2, 0, 1, 2]),
            (3, [0, 1, 2, 0]),
        ] {
            let mut balancer = Balancer::new(balance, 3, worker);
            assert_eq!(picks(&mut balancer, &pool, 4), expected, "worker {worker}");
        }
    }
}

#[test]
fn nobody_to_choose() {
    for balance in BOTH {
        for (weights, excluded) in [
            (&[][..], &[][..]),
            (&[0], &[]),
            (&[0, 0, 0], &[]),
            (&[1, 2], &[0, 1]),
            (&[0, 2], &[1]),
        ] {
            let mut balancer = Balancer::new(balance, weights.len(), 5);
            let pool = Pool::new(weights);
            for _ in 0..3 {
                assert_eq!(
                    balancer.pick(&pool, &tried(excluded)),
                    None,
                    "{weights:?} without {excluded:?}"
                );
            }
        }
    }
}

#[test]
fn a_pool_of_another_size_is_no_harm() {
    let mut balancer = Balancer::new(Balance::RoundRobin, 9, 8);
    assert_eq!(picks(&mut balancer, &Pool::new(&[1, 1]), 4), [0, 1, 0, 1]);
    assert_eq!(
        shares(&picks(&mut balancer, &Pool::new(&[1, 1, 2]), 4), 3),
        [1, 1, 2]
    );
    assert_eq!(balancer.pick(&Pool::new(&[]), &Tried::NONE), None);
}

#[test]
fn least_connections_weighs_what_is_in_flight() {
    for (weights, in_flight, expected) in [
        (&[1, 1, 1][..], &[3, 1, 2][..], 1),
        (&[1, 1, 1], &[0, 0, 0], 0),
        // 10 of 10 is more than 1 of 2.
        (&[10, 2], &[10, 1], 1),
        (&[10, 2], &[4, 1], 0),
        // Weights that may take nothing are not asked.
        (&[0, 1], &[0, 1000], 1),
        (&[256, 1], &[u32::MAX, u32::MAX], 0),
        // Equal loads by weight: the heavier one is owed more.
        (&[1, 3], &[2, 6], 1),
    ] {
        let pool = Pool {
            weights: weights.to_vec(),
            in_flight: in_flight.to_vec(),
        };
        let mut balancer = Balancer::new(Balance::LeastConnections, weights.len(), 0);
        assert_eq!(
            balancer.pick(&pool, &Tried::NONE),
            Some(expected),
            "{weights:?} {in_flight:?}"
        );
    }
}

/// Candidates, some of which are full at the moment.
struct Full<'a>(&'a Pool, &'a [usize]);

impl Candidates for Full<'_> {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn weight(&self, index: usize) -> u16 {
        self.0.weight(index)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.0.in_flight(index)
    }

    fn is_full(&self, index: usize) -> bool {
        self.1.contains(&index)
    }
}

/// Who is full is passed over, and is owed its turn: nothing begins anew.
#[test]
fn who_is_full_is_passed_over() {
    for balance in BOTH {
        let pool = Pool::new(&[1, 1, 1, 1]);
        let mut balancer = Balancer::new(balance, 4, 0);
        let mut pick = |full: &[usize]| balancer.pick(&Full(&pool, full), &Tried::NONE);
        assert_eq!([pick(&[]), pick(&[])], [Some(0), Some(1)]);
        assert_eq!(
            [pick(&[2]), pick(&[])],
            [Some(3), Some(2)],
            "what it is owed it gets"
        );
        assert_eq!(pick(&[0, 1, 2, 3]), None);
        assert_eq!(pick(&[1, 2, 3]), Some(0));
    }
}

#[test]
fn an_idle_pool_by_least_connections_is_round_robin() {
    let pool = Pool::new(&[5, 1, 1]);
    let mut least = Balancer::new(Balance::LeastConnections, 3, 0);
    let mut round = Balancer::new(Balance::RoundRobin, 3, 0);
    assert_eq!(picks(&mut least, &pool, 21), picks(&mut round, &pool, 21));
}

/// Counts that change under the balancer's hands, as atomics do.
struct Moving(std::cell::Cell<u32>);

impl Candidates for Moving {
    fn count(&self) -> usize {
        4
    }

    fn weight(&self, _: usize) -> u16 {
        1
    }

    fn in_flight(&self, _: usize) -> u32 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

#[test]
fn counts_that_change_meanwhile_still_give_a_choice() {
    let mut balancer = Balancer::new(Balance::LeastConnections, 4, 0);
    let moving = Moving(Default::default());
    for round in 1..=9 {
        assert_eq!(balancer.pick(&moving, &Tried::NONE), Some(0));
        assert_eq!(moving.0.get(), 4 * round, "each is asked once");
    }
}

#[test]
fn tried_holds_any_index() {
    let mut set = Tried::NONE;
    assert!(set.is_empty());
    for (len, index) in [0, 63, 64, 65, 100_000, 5].into_iter().enumerate() {
        assert!(!set.contains(index));
        assert!(set.insert(index) && set.insert(index));
        assert!(set.contains(index));
        assert_eq!(set.len(), len + 1);
    }
    assert!(![1, 62, 66, 99_999].into_iter().any(|index| set.contains(index)));
    assert!(!set.is_empty());
}

#[test]
fn tried_says_when_it_is_full() {
    let mut set = Tried::NONE;
    assert!((64..72).all(|index| set.insert(index)));
    assert!(!set.insert(72));
    assert!(!set.contains(72));
    assert!(set.insert(71), "is in it already");
    assert!(set.insert(3), "below 64 there is always room");
    if usize::BITS > 32 {
        assert!(!Tried::default().insert(usize::MAX));
    }
}

/// Weights of which at least one is not 0.
fn weights() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(prop_oneof![0_u16..=4, 0_u16..=256], 1..9)
        .prop_filter("some weight", |weights| weights.iter().any(|w| *w > 0))
}

proptest! {
    /// Wherever one begins to count.
    #[test]
    fn shares_are_exact_over_a_cycle(weights in weights(), worker in 0_usize..9, skip in 0_usize..2000) {
        let pool = Pool::new(&weights);
        let mut balancer = Balancer::new(Balance::RoundRobin, weights.len(), worker);
        picks(&mut balancer, &pool, skip);
        let cycle = picks(&mut balancer, &pool, pool.total());
        prop_assert_eq!(shares(&cycle, weights.len()), weights);
    }

    /// Nobody is ever a whole request ahead of its share, nor, with up to 8 backends, two behind.
    #[test]
    fn shares_are_even_at_every_moment(weights in weights(), worker in 0_usize..9) {
        let pool = Pool::new(&weights);
        let mut balancer = Balancer::new(Balance::RoundRobin, weights.len(), worker);
        let total = pool.total() as f64;
        let mut had = vec![0.0; weights.len()];
        for round in 1..=2 * pool.total() {
            had[balancer.pick(&pool, &Tried::NONE).unwrap()] += 1.0;
            for (had, weight) in had.iter().zip(&weights) {
                let ahead = had - round as f64 * f64::from(*weight) / total;
                prop_assert!(ahead < 1.0 && ahead > -2.0, "{ahead} ahead after {round}");
            }
        }
    }

    /// A change of weights is obeyed from the next choice on, and its shares are exact at once.
    #[test]
    fn changed_weights_begin_anew(first in weights(), second in weights(), count in 0_usize..500) {
        let backends = first.len().max(second.len());
        let (mut first, mut second) = (Pool::new(&first), Pool::new(&second));
        first.weights.resize(backends, 0);
        second.weights.resize(backends, 0);
        prop_assume!(first.weights != second.weights);
        let mut balancer = Balancer::new(Balance::RoundRobin, backends, 0);
        picks(&mut balancer, &first, count.max(1));
        let cycle = picks(&mut balancer, &second, second.total());
        prop_assert_eq!(shares(&cycle, backends), second.weights);
    }

    /// Retries reach every backend that may take any, each once, and then there is none.
    #[test]
    fn what_was_tried_is_not_chosen_again(weights in weights(), least in any::<bool>(), worker in 0_usize..9) {
        let balance = if least { Balance::LeastConnections } else { Balance::RoundRobin };
        let pool = Pool::new(&weights);
        let mut balancer = Balancer::new(balance, weights.len(), worker);
        for _ in 0..50 {
            let mut set = Tried::NONE;
            let mut chosen = vec![];
            while let Some(index) = balancer.pick(&pool, &set) {
                prop_assert!(set.insert(index));
                chosen.push(index);
            }
            chosen.sort_unstable();
            let expected: Vec<_> = (0..weights.len()).filter(|i| weights[*i] > 0).collect();
            prop_assert_eq!(chosen, expected);
        }
    }

    /// What retries take is settled among those that were asked: in the long run no share suffers.
    #[test]
    fn retries_do_not_pile_up(weights in weights(), excluded in prop::collection::vec(0_usize..8, 0..40)) {
        let pool = Pool::new(&weights);
        let mut balancer = Balancer::new(Balance::RoundRobin, weights.len(), 0);
        for index in excluded {
            balancer.pick(&pool, &tried(&[index]));
            prop_assert_eq!(balancer.slots.iter().map(|s| s.current).sum::<i64>(), 0);
        }
    }

    /// The choice has the least load, whatever came before.
    #[test]
    fn the_least_loaded_is_chosen(rounds in prop::collection::vec(prop::collection::vec((0_u16..=256, any::<u32>()), 1..9), 1..20)) {
        let mut balancer = Balancer::new(Balance::LeastConnections, 0, 3);
        for round in rounds {
            let (weights, in_flight) = round.iter().copied().unzip();
            let pool = Pool { weights, in_flight };
            let load = |index: usize| f64::from(pool.in_flight[index]) / f64::from(pool.weights[index]);
            let open: Vec<_> = (0..round.len()).filter(|i| pool.weights[*i] > 0).collect();
            match balancer.pick(&pool, &Tried::NONE) {
                None => prop_assert!(open.is_empty()),
                Some(chosen) => {
                    prop_assert!(pool.weights[chosen] > 0);
                    prop_assert!(open.iter().all(|other| load(chosen) <= load(*other)));
                }
            }
        }
    }

    /// Requests that come faster than they end fill the backends by their weights.
    #[test]
    fn lasting_requests_fill_by_weight(weights in weights(), rounds in 1_u32..4) {
        let mut pool = Pool::new(&weights);
        let mut balancer = Balancer::new(Balance::LeastConnections, weights.len(), 0);
        for _ in 0..rounds as usize * pool.total() {
            let index = balancer.pick(&pool, &Tried::NONE).unwrap();
            pool.in_flight[index] += 1;
        }
        for (in_flight, weight) in pool.in_flight.iter().zip(&weights) {
            let share = u32::from(*weight) * rounds;
            prop_assert!(in_flight.abs_diff(share) <= 1, "{in_flight} of {share}");
        }
    }
}
