//! Whether a store holds what it promises; statistics; comparison.
