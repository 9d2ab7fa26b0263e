//! oracle: being written
