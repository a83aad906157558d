//! Lists of keys, a page at a time.
