//! The healer on this machine: real processes, a real control group, a real filesystem, a real socket.
//!
//! Needs root, and the cpu controller (v1 or v2) for what throttles; a machine without them fails these tests.

#[cfg(test)]
mod healing {
    mod binary;
    mod crash;
    mod disk;
    mod fixture;
    mod ledger;
    mod policy;
    mod process;
    mod socket;
    mod trust;
}
