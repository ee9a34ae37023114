//! What reloads keep, and what they change.

use super::*;

#[test]
fn a_reload_that_changes_nothing_does_nothing() {
    let pools = || [pool("a", 3, Some(check(2, 2))), pool("b", 1, None)];
    let mut scene = Scene::up(plan(pools()));
    let (timer, before) = (scene.engine.poll_timeout(), format!("{:?}", scene.engine.members));
    scene.engine.apply(plan(pools()), scene.now);
    assert_eq!(scene.engine.poll_output(), None);
    assert_eq!(
        (scene.engine.poll_timeout(), format!("{:?}", scene.engine.members)),
        (timer, before)
    );
}

#[test]
fn a_reload_keeps_state_wish_counters_and_probe() {
    let mut scene = Scene::up(plan([pool("a", 2, Some(check(2, 2)))]));
    scene.dead.insert(key("a", 0));
    scene.run(20_000 * MS);
    scene
        .engine
        .set_admin(&key("a", 1), Admin::Drain, scene.now)
        .unwrap();
    let probe = scene.until_probes().remove(0);
    let counts = |scene: &Scene| {
        let view = scene.engine.pool(&PoolName::new("a")).unwrap();
        view.backends
            .iter()
            .map(|b| (b.word, b.since, b.passed, b.failed, b.transitions))
            .collect::<Vec<_>>()
    };
    let before = counts(&scene);
    scene.forget();

    // Everything around them changes.
    let mut a = pool("a", 3, Some(check(2, 2)));
    a.backends.rotate_left(1);
    a.backends[0].weight = 50;
    scene.engine.apply(plan([pool("b", 1, None), a]), scene.now);
    scene.drain(false);
    let after = counts(&scene);
    assert_eq!([after[2], after[0]], [before[0], before[1]]);
    assert_eq!(after[1].0, Word::PENDING);
    assert_eq!(scene.pools_changed(), ["a", "b"]);
    assert!(!scene.said.contains(&Output::CancelProbe(probe.id)));
    scene.engine.probe_finished(probe.id, passed(), scene.now);
    assert_ne!(counts(&scene), after, "the probe under way still counts");
}

#[test]
fn a_changed_weight_changes_the_pool_alone() {
    let mut scene = Scene::up(plan([pool("a", 1, Some(check(2, 2))), pool("b", 1, None)]));
    let mut a = pool("a", 1, Some(check(2, 2)));
    a.backends[0].weight = 7;
    scene.engine.apply(plan([a, pool("b", 1, None)]), scene.now);
    scene.drain(true);
    assert_eq!(scene.said, [Output::PoolChanged(PoolName::new("a"))]);
    assert_eq!(
        scene.engine.usable(&PoolName::new("a")).unwrap(),
        [Usable {
            weight: 7,
            alive: true
        }]
    );
}

#[test]
fn a_changed_check_keeps_the_state_and_asks_anew() {
    let mut scene = Scene::up(plan([pool("a", 1, Some(check(2, 2)))]));
    let old = scene.until_probes().remove(0);
    let check = crate::plan::Check {
        port: Some(81),
        ..check(2, 2)
    };
    scene.engine.apply(plan([pool("a", 1, Some(check))]), scene.now);
    let (applied, new) = (scene.now, scene.until_probes().remove(0));
    assert_eq!(scene.said, [Output::CancelProbe(old.id)]);
    assert_eq!((scene.word("a", 0), new.target.port()), (UP, 81));
    assert!(scene.now - applied < 10 * MS);
    scene.engine.probe_finished(old.id, refused(), scene.now);
    scene.engine.probe_finished(new.id, refused(), scene.now);
    assert_eq!(scene.word("a", 0), UP, "one failure, of the new check");
}

#[test]
fn checks_that_come_and_go() {
    let checked = || plan([pool("a", 1, Some(check(2, 2)))]);
    let mut scene = Scene::up(checked());
    scene.dead.insert(key("a", 0));
    scene.run(20_000 * MS);
    assert_eq!(scene.word("a", 0), DOWN);
    let probe = scene.until_probes().remove(0);
    scene.forget();

    scene.engine.apply(plan([pool("a", 1, None)]), scene.now);
    scene.drain(true);
    assert_eq!(scene.said[0], Output::CancelProbe(probe.id));
    assert_eq!(scene.transitions(), [(key("a", 0), DOWN, UP, "unchecked")]);
    assert_eq!(scene.engine.poll_timeout(), None);

    scene.forget();
    scene.engine.apply(checked(), scene.now);
    assert_eq!((scene.word("a", 0), scene.engine.poll_output()), (UP, None));
    scene.run(20_000 * MS);
    assert_eq!(scene.transitions(), [(key("a", 0), UP, DOWN, "refused")]);
}

#[test]
fn removed_backends_vanish() {
    let mut scene = Scene::up(plan([
        pool("a", 2, Some(check(2, 2))),
        pool("b", 1, Some(check(2, 2))),
    ]));
    let mut flying = BTreeMap::new();
    while flying.len() < 3 {
        let probes = scene.until_probes();
        flying.extend(probes.into_iter().map(|p| (p.key, p.id)));
    }
    scene.forget();
    scene
        .engine
        .apply(plan([pool("a", 1, Some(check(2, 2)))]), scene.now);
    scene.drain(true);
    let cancelled = [key("a", 1), key("b", 0)].map(|key| Output::CancelProbe(flying[&key]));
    assert_eq!(scene.said[..2], cancelled);
    assert_eq!(scene.said[2..], [Output::PoolChanged(PoolName::new("a"))]);
    assert_eq!(scene.engine.word(&key("a", 1)), None);
    assert!(scene.engine.pool(&PoolName::new("b")).is_none());
    assert!(
        scene
            .engine
            .set_admin(&key("b", 0), Admin::Drain, scene.now)
            .is_err()
    );
    scene
        .engine
        .probe_finished(flying[&key("b", 0)], refused(), scene.now);
    scene.run(20_000 * MS);
    assert!(
        scene.probed.iter().all(|k| *k == key("a", 0)),
        "{:?}",
        scene.probed
    );

    // Back again, it is new.
    scene
        .engine
        .apply(plan([pool("a", 2, Some(check(2, 2)))]), scene.now);
    assert_eq!(scene.word("a", 1), Word::PENDING);
}

#[test]
fn a_pool_that_returns_is_said_again() {
    let both = || plan([pool("a", 1, None), pool("b", 1, None)]);
    let mut scene = Scene::up(both());
    for (plan, changed) in [(plan([pool("a", 1, None)]), vec![]), (both(), vec!["b"])] {
        scene.forget();
        scene.engine.apply(plan, scene.now);
        scene.drain(true);
        assert_eq!(scene.pools_changed(), changed);
    }
}
