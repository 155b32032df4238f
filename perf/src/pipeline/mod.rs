//! The flow engine in memory, without a kernel: what one worker could do if packets were free.
//!
//! [`Rig`] is an engine with a node's rules and as many flows as asked; [`Load`] writes the frames
//! of a batch. Frames are written outside the measured time, the flow of each is chosen by an
//! order that no prefetcher can guess, and nothing of the rig is as large as the tables it
//! measures, so that the cache is the engine's.

mod load;
mod meter;
mod rig;

pub use load::{Load, Order};
pub use meter::{Cost, Meter};
pub use rig::{Family, Rig};
