//! policy-compiler
