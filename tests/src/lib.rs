//! The harness of the lab tests: a lab that comes up in a wanted shape and goes down with its owner, programs run inside
//! its namespaces, and waiting for events with a deadline.
//!
//! The tests are in `lab/`, by intent; the clients that curl cannot be made to be are in `clients/`, in Python.

pub mod client;
pub mod command;
pub mod endpoints;
pub mod lab;
pub mod lossy;
pub mod wait;

pub use client::{Curl, Script};
pub use endpoints::Record;
pub use lab::{Lab, Shape};
pub use lossy::Lossy;
pub use wait::wait_until;
