//! What would become of a packet: hands `explain` the maps and the names of this datapath.

use super::Datapath;
use crate::{
    error::MapError,
    explain::{self, Explanation, Question},
};

impl Datapath {
    /// What would become of a packet of a flow, were it to come in now. None when its ends are of two families.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn explain(&self, question: &Question) -> Result<Option<Explanation>, MapError> {
        match explain::build(question) {
            Some(mut frame) => self.explain_frame(&mut frame).map(Some),
            None => Ok(None),
        }
    }

    /// The same of any frame; it becomes what is sent.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn explain_frame(&self, frame: &mut Vec<u8>) -> Result<Explanation, MapError> {
        explain::explain(&self.tables, &self.names(), frame)
    }
}
