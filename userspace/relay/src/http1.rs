//! HTTP/1.x messages as bytes: strict parsing, rewriting, body framing. Pure: no sockets, no clock, no tokio.
//!
//! What is ambiguous is refused here, so that nothing a backend could read in another way than weir ever leaves it. A
//! message is always written anew from what was parsed; no head is passed on as it came.

pub mod answer;
pub mod body;
pub mod fields;
pub mod forwarded;
pub mod head;
pub mod id;
pub mod own;
pub(crate) mod path;
pub mod request;
pub mod response;
pub mod rewrite;
pub mod rules;
pub(crate) mod status;
pub mod target;
pub mod template;
pub mod version;
pub mod websocket;
pub mod write;

#[cfg(test)]
mod tests;
