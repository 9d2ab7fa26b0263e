//! objects: being written
