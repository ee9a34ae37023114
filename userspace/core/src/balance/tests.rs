//! The choice, by tables and properties.
