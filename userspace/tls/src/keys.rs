//! Who holds the keys: this process, or another that only signs.
//!
//! Owns the way from a key's name to what signs with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
};

use rustls::sign::SigningKey;

use crate::key::{KeyId, KeyKind, PrivateKey};

/// Whoever can have something signed by a key.
pub trait KeySource: Send + Sync + Debug {
    /// What signs with the key of this name and kind. None: nobody here has it.
    fn signing_key(&self, id: &KeyId, kind: KeyKind) -> Option<Arc<dyn SigningKey>>;
}

/// Keys in this process: for a look at a configuration, and for tests. The relay never has any.
#[derive(Clone, Debug, Default)]
pub struct LocalKeys(BTreeMap<KeyId, PrivateKey>);

impl LocalKeys {
    /// Takes a key in.
    pub fn insert(&mut self, key: PrivateKey) {
        self.0.insert(key.id(), key);
    }

    /// Forgets all but these.
    pub fn retain(&mut self, keys: &BTreeSet<KeyId>) {
        self.0.retain(|id, _| keys.contains(id));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of a name.
    pub fn get(&self, id: &KeyId) -> Option<&PrivateKey> {
        self.0.get(id)
    }
}

impl FromIterator<PrivateKey> for LocalKeys {
    fn from_iter<I: IntoIterator<Item = PrivateKey>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (key.id(), key)).collect())
    }
}

impl KeySource for LocalKeys {
    fn signing_key(&self, id: &KeyId, _kind: KeyKind) -> Option<Arc<dyn SigningKey>> {
        self.0.get(id).map(PrivateKey::signing_key)
    }
}
