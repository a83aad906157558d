//! A number for a set of labels.
