//! What the family `credential` tells: nothing in this build.
