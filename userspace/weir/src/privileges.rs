//! What the child processes give up before they meet traffic.

use anyhow::{Context, bail, ensure};
use nix::{
    libc,
    sys::{
        mman::{MlockAllFlags, mlockall},
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Uid, User},
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use tracing::warn;

/// The user that children run as: None when weir itself runs without privilege and they stay what they are.
///
/// # Errors
/// weir runs as root and the user of `node.user` does not exist, or is root.
pub(crate) fn child_user(name: &str) -> anyhow::Result<Option<(Uid, Gid)>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    let user = User::from_name(name)
        .with_context(|| format!("node.user \"{name}\": looking it up"))?
        .with_context(|| {
            format!(
                "node.user \"{name}\": no such user; create it (`useradd --system {name}`) or name another"
            )
        })?;
    if user.uid.is_root() {
        bail!(
            "node.user \"{name}\" is root; the relay, health and keys processes need an unprivileged user, for example \"nobody\""
        );
    }
    Ok(Some((user.uid, user.gid)))
}

/// Called first in a child: it can never gain privileges again, whatever it executes, and no other process of its user
/// may read its memory.
pub(crate) fn confine() -> anyhow::Result<()> {
    prctl::set_no_new_privs().context("prctl(PR_SET_NO_NEW_PRIVS)")?;
    prctl::set_dumpable(false).context("prctl(PR_SET_DUMPABLE)")?;
    if Uid::effective().is_root() {
        bail!("a child process must not run as root");
    }
    drop_capabilities()
}

/// Called first in the process that holds private keys: what it holds goes to no core file, and not to disk if the limit
/// on locked memory lets it. What could not be done, in words.
pub(crate) fn guard_memory() -> anyhow::Result<Option<String>> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("setrlimit(RLIMIT_CORE)")?;
    // Pages are locked when they are first touched: the program's own text would be many that no secret is in.
    let flags = MlockAllFlags::MCL_CURRENT
        | MlockAllFlags::MCL_FUTURE
        | MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    Ok(match mlockall(flags) {
        Ok(()) => None,
        Err(errno) => Some(format!(
            "{}; raise the limit on locked memory (LimitMEMLOCK=infinity), or encrypt or turn off swap",
            errno.desc()
        )),
    })
}

/// Raises the limit on locked memory as far as it goes: the keys process inherits it.
pub(crate) fn raise_locked_memory_limit() {
    let raised =
        setrlimit(Resource::RLIMIT_MEMLOCK, libc::RLIM_INFINITY, libc::RLIM_INFINITY).or_else(|_| {
            getrlimit(Resource::RLIMIT_MEMLOCK)
                .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard))
        });
    if let Err(error) = raised {
        warn!(%error, "the limit on locked memory stays as it is");
    }
}

/// Gives up every capability, in all sets, for good.
fn drop_capabilities() -> anyhow::Result<()> {
    clear_ambient_capability_set().context("clearing the ambient capabilities")?;
    // Only a process with CAP_SETPCAP may drop from the bounding set; without new privileges it is a second lock anyway.
    let bounding = capabilities(None)?.effective;
    for capability in bounding.iter() {
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
    .context("giving up capabilities")?;
    let left = capabilities(None).context("looking at capabilities")?;
    ensure!(
        left.effective.is_empty() && left.permitted.is_empty(),
        "capabilities are left: {left:?}"
    );
    Ok(())
}

/// Raises the limit on open descriptors as far as it goes: every relayed connection takes two. Children inherit it.
pub(crate) fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit on open descriptors stays as it is");
    }
}
