//! HTTP/2 with clients: by the `h2` crate where messages matter, frame by frame where frames do.

mod budgets;
mod client;
mod connection;
mod flow;
mod frames;
mod messages;
mod turning;
mod websocket;
