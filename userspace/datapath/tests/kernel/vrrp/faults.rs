//! Faults of the box's own: its programs can't be told of addresses, its thread dies.

use super::*;

fn fenced(weir: &Weir) -> Result<(), LeaseError> {
    weir.next("whether it is fenced", |what| match what {
        Reported::Fenced(fenced) => Some(fenced),
        _ => None,
    })
}

/// A group that nothing would silence takes no part: neither when it begins nor when it changes. Once it can be, it does.
#[test]
fn a_group_that_cannot_be_fenced_stays_out() {
    let kind = KINDS[0];
    let other = Kind {
        vip: "192.0.2.11",
        ..kind
    };
    let pair = Pair::new();
    let will = Arc::new(Will::default());
    will.refuses.store(true, Ordering::Relaxed);
    let weir = start_by(Arc::clone(&will), &pair.left, "left", kind, 100, 10, None);
    assert!(matches!(fenced(&weir), Err(LeaseError::Full)));
    let sees = || weir.driver.look().blocking_recv().unwrap();
    assert_eq!(sees()[0].state, State::Init);
    will.refuses.store(false, Ordering::Relaxed);
    fenced(&weir).unwrap();
    weir.change(State::Master);
    assert!(pair.has(&pair.left, kind.vip));

    will.refuses.store(true, Ordering::Relaxed);
    let changed = weir
        .driver
        .configure(vec![group("left", other, 100, 10, None, None)]);
    changed.blocking_recv().unwrap();
    assert!(matches!(fenced(&weir), Err(LeaseError::Full)));
    assert_eq!(weir.change(State::Init).cause, Cause::Stopped);
    assert!(!pair.has(&pair.left, kind.vip) && !pair.has(&pair.left, other.vip));
    assert_eq!(sees()[0].lease, None);
    will.refuses.store(false, Ordering::Relaxed);
    fenced(&weir).unwrap();
    weir.change(State::Master);
    assert!(pair.has(&pair.left, other.vip));
}

/// Its owner learns of it, and can have another one take over on the same links.
#[test]
fn a_thread_that_dies_is_noticed_and_replaced() {
    let (kind, pair) = (KINDS[0], Pair::new());
    let will = Arc::new(Will::default());
    let mut weir = start_by(Arc::clone(&will), &pair.left, "left", kind, 100, 10, None);
    weir.change(State::Master);
    will.panics.store(true, Ordering::Relaxed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let died = tokio::time::timeout(DEADLINE, weir.driver.died());
        died.await.expect("it dies with its next lease");
        // Again at once: it stays dead.
        weir.driver.died().await;
    });
    assert!(weir.driver.look().blocking_recv().is_err(), "it answers no more");
    assert!(pair.has(&pair.left, kind.vip), "nobody took the address away");
    let next = pair.weir(kind, 100);
    next.change(State::Master);
    drop(weir);
    assert!(pair.has(&pair.left, kind.vip));
    drop(next);
    assert!(!pair.has(&pair.left, kind.vip));
}
