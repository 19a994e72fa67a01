//! Sessions over a connection in memory, by a clock that only the test moves.

mod capped;
mod leaving;
