//! What the family `kernel` tells: nothing in this build.
