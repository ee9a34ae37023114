//! `[sync]`: what other boxes are told of flows.

use std::{net::SocketAddr, path::PathBuf};

/// Boxes that tell each other of their flows by L4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sync {
    /// Where this box listens, and what it sends from.
    pub local: SocketAddr,
    /// The others, each address once, of [`Self::local`]'s family.
    pub peers: Vec<SocketAddr>,
    /// The keys' numbers, each once, and the files that hold them. What stands in them is in no plan.
    pub keys: Vec<(u8, PathBuf)>,
    /// The number of the one that signs.
    pub sign_with: u8,
    /// Datagrams with flows that each peer is sent per second, at most.
    pub rate: u32,
}

impl Sync {
    /// The port where the file is silent.
    pub const PORT: u16 = 3720;
    /// The rate where the file is silent.
    pub const RATE: u32 = 2_000;
}
