//! What the child processes give up before they meet traffic.

use anyhow::{Context, bail};
use nix::{
    sys::prctl,
    unistd::{Gid, Uid, User},
};

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
            "node.user \"{name}\" is root; the relay and health processes need an unprivileged user, for example \"nobody\""
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
    Ok(())
}
