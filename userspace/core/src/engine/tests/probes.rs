//! Checks: what is asked, and what answers that come late, never, or not from the backend are worth.

use super::*;

#[test]
fn a_probe_asks_the_checks_port_and_question() {
    let http = HttpCheck {
        protocol: crate::plan::HttpProtocol::Http1,
        tls: None,
        method: "GET".into(),
        path: "/healthz".into(),
        host: None,
        status: vec![(200, 299)],
    };
    let kind = CheckKind::Http(http);
    let check = crate::plan::Check {
        port: Some(9000),
        kind: kind.clone(),
        ..check(1, 1)
    };
    let mut scene = Scene::new(plan([pool("a", 1, Some(check))]));
    let probe = scene.until_probes().remove(0);
    assert_eq!(
        (probe.key, probe.target, probe.kind),
        (key("a", 0), "10.0.0.1:9000".parse().unwrap(), kind)
    );
}

#[test]
fn results_nobody_waits_for_are_ignored() {
    let mut scene = Scene::up(plan([pool("a", 2, Some(check(1, 1)))]));
    let probe = scene.until_probes().remove(0);
    scene.engine.probe_finished(probe.id, passed(), scene.now);
    let before = format!("{:?}", scene.engine);
    for id in [
        probe.id,
        ProbeId(probe.id.0.wrapping_add(1)),
        ProbeId(0),
        ProbeId(u64::MAX),
    ] {
        scene.engine.probe_finished(id, refused(), scene.now);
    }
    assert_eq!(format!("{:?}", scene.engine), before);
}

#[test]
fn a_probe_that_never_ends_says_nothing_of_the_backend() {
    let mut scene = Scene::up(plan([pool("a", 1, Some(check(1, 1)))]));
    let probe = scene.until_probes().remove(0);
    let deadline = scene.now + 1000 * MS + GRACE;
    assert_eq!(scene.engine.poll_timeout(), Some(deadline));
    scene.now = deadline;
    scene.engine.handle_timeout(deadline);
    scene.drain(false);
    assert_eq!(scene.said[0], Output::CancelProbe(probe.id));
    assert_eq!(scene.transitions(), []);
    assert_eq!(scene.word("a", 0), UP);
    let view = scene.engine.pool(&PoolName::new("a")).unwrap();
    let last = view.backends[0].last.unwrap().result;
    assert_eq!(
        last.outcome,
        Outcome::Failed(Failure::Internal("no result".into()))
    );
    assert_eq!(last.took, 1000 * MS + GRACE);
    assert_eq!(view.backends[0].failures, 0, "not among the failures in a row");
    // Its result, should it come after all, comes too late; the next check is asked for.
    scene.engine.probe_finished(probe.id, refused(), deadline);
    assert_eq!(scene.word("a", 0), UP);
    assert_ne!(scene.until_probes().remove(0).id, probe.id);
}

#[test]
fn a_check_that_could_not_be_made_is_our_own_matter() {
    let internal = || ProbeResult {
        outcome: Outcome::Failed(Failure::Internal("no descriptors left".into())),
        took: MS,
    };
    let mut scene = Scene::up(plan([pool("a", 1, Some(check(1, 2)))]));
    for _ in 0..5 {
        let probe = scene.until_probes().remove(0);
        scene.engine.probe_finished(probe.id, internal(), scene.now);
        scene.drain(false);
    }
    assert_eq!(scene.word("a", 0), UP);
    // Failures on both sides of it still follow one another.
    for result in [refused(), internal(), refused()] {
        let probe = scene.until_probes().remove(0);
        scene.engine.probe_finished(probe.id, result, scene.now);
        scene.drain(false);
    }
    assert_eq!(scene.word("a", 0), DOWN);
}

#[test]
fn lost_probes_start_again_and_blame_nobody() {
    let mut scene = Scene::up(plan([pool("a", 3, Some(check(1, 1)))]));
    let mut old = vec![];
    while old.len() < 3 {
        scene.now = scene.engine.poll_timeout().unwrap();
        scene.engine.handle_timeout(scene.now);
        old.extend(scene.drain(false).into_iter().map(|p| p.id));
        scene.now += MS;
    }
    scene.engine.probes_lost(scene.now);
    let new = scene.drain(false);
    assert_eq!(new.len(), 3);
    assert!(new.iter().all(|p| !old.contains(&p.id)));
    assert_eq!(scene.said, []);
    assert_eq!(scene.engine.poll_timeout(), Some(scene.now + 1000 * MS + GRACE));
    for probe in new {
        scene.engine.probe_finished(probe.id, passed(), scene.now);
    }
    assert!((0..3).all(|i| scene.word("a", i) == UP));
}
