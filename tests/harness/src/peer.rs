//! What stands around weir in a test: servers and clients that are not ours, and small ones of the harness where
//! none does exactly what a test must see.

pub mod bird;
pub mod chromium;
pub mod curl;
pub mod dns;
pub mod echo;
pub mod flood;
pub mod haproxy;
pub mod http2;
pub mod keepalived;
pub mod mariadb;
pub mod mirror;
pub mod nginx;
pub mod ping;
pub mod tunnel;

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Writes a file of that many bytes that no two places of are alike (a generator seeded with `seed`), for transfers
/// that must arrive byte for byte.
///
/// # Errors
/// The file can't be written.
pub fn write_noise(path: &Path, len: usize, seed: u64) -> Result<()> {
    let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
    // splitmix64
    let mut state = seed;
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    std::fs::write(path, &bytes).with_context(|| format!("can't write {}", path.display()))
}

/// Whether two files hold the same bytes.
///
/// # Errors
/// They do not: the error says where they part. Or one can't be read.
pub fn same_bytes(sent: &Path, received: &Path) -> Result<()> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("can't read {}", path.display()));
    let (sent, received) = (read(sent)?, read(received)?);
    if sent == received {
        return Ok(());
    }
    let equal = sent.iter().zip(&received).take_while(|(a, b)| a == b).count();
    bail!(
        "sent {} bytes, received {}; they agree for {equal} bytes",
        sent.len(),
        received.len()
    );
}
