//! HTTP/1.x messages as bytes: strict parsing, rewriting, body framing. Pure: no sockets, no clock, no tokio.
//!
//! What is ambiguous is refused here, so that nothing a backend could read in another way than weir ever leaves it. A
//! message is always written anew from what was parsed; no head is passed on as it came.

pub mod body;
pub mod fields;
pub mod forwarded;
pub mod head;
pub mod request;
pub mod response;
pub mod rules;
pub mod target;
pub mod write;

#[cfg(test)]
mod tests;
