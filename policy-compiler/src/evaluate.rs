//! evaluate: being written
