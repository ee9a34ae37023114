//! From a configuration file to what the processes go by, in one place for `run`, `check`, `reload` and the clients.

use std::path::{Path, PathBuf};

use weir_config::{Facts, Mistake, Report, tunables::Origin};
pub(crate) use weir_config::{Loaded, load};

use crate::tls;

/// The control socket of a configuration that names none.
pub(crate) fn default_socket() -> PathBuf {
    Facts::of_this_machine().runtime_dir.join("control.sock")
}

/// The configuration with some tunables set anew.
///
/// # Errors
/// An unknown name, a bad value, a tunable that needs a restart, or a plan that does not hold with them: nothing has
/// changed then.
pub(crate) fn with_tunables(loaded: &Loaded, set: &[(String, String)]) -> anyhow::Result<Loaded> {
    let mut source = loaded.source.clone();
    for (name, value) in set {
        let setting = source.tunables.set(name, value, Origin::Runtime)?;
        if setting.tunable.applies == weir_config::tunables::Applies::Restart {
            anyhow::bail!(
                "{name} applies with the next start only; write it to a file in tunables.d and restart weir"
            );
        }
    }
    let plan = source.resolve().map_err(|report| anyhow::anyhow!("{report}"))?;
    Ok(Loaded {
        plan: plan.into(),
        source,
        untimely: loaded.untimely.clone(),
    })
}

/// Loads the file again, keeping the tunables that were set while weir ran.
///
/// # Errors
/// All mistakes of all files.
pub(crate) fn reload(path: &Path, before: &Loaded) -> Result<Loaded, Report> {
    let loaded = load(path)?;
    // What is served already is served on. What is new has to be in its time, or what was served before is.
    let (old, new) = (&before.source.tls, &loaded.source.tls);
    let fresh = |(path, _): &&(PathBuf, Mistake)| !new.is_same(old, path);
    let fresh: Vec<_> = { loaded.untimely.iter() }
        .filter(fresh)
        .map(|(_, mistake)| mistake.clone())
        .collect();
    if !fresh.is_empty() {
        return Err(fresh.into());
    }
    tell_untimely(&loaded);
    let runtime: Vec<_> = before
        .source
        .tunables
        .iter()
        .filter(|s| *s.origin == Origin::Runtime)
        .map(|s| (s.tunable.name, s.value.to_string()))
        .collect();
    if runtime.is_empty() {
        return Ok(loaded);
    }
    let untimely = loaded.untimely;
    let mut source = loaded.source;
    for (name, value) in runtime {
        // It was accepted once by the same registry.
        if let Err(error) = source.tunables.set(name, &value, Origin::Runtime) {
            tracing::warn!(%error, "a tunable set at run time is dropped");
        }
    }
    let plan = source.resolve()?;
    Ok(Loaded {
        plan: plan.into(),
        source,
        untimely,
    })
}

/// Logs the certificates that are served though their time has not come or is over, and the pools whose backends are not
/// verified.
pub(crate) fn tell_untimely(loaded: &Loaded) {
    for (_, mistake) in &loaded.untimely {
        let mistake = mistake.to_string();
        tracing::error!(mistake, "a certificate is served that clients will refuse");
    }
    for pool in tls::unverified_pools(&loaded.plan) {
        let what = tls::unverified(pool);
        tracing::warn!(what, "backends are not verified");
    }
}
