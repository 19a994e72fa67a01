//! What the family `memory` tells: nothing in this build.
