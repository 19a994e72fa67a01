//! What the family `resource` tells: nothing in this build.
