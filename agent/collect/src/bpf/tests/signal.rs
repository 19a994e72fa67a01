//! What the family `signal` tells: nothing in this build.
