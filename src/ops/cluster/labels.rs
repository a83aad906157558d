//! The labels of identities, which a cluster knows.
