//! The engine, scene by scene.
