//! The value of an address (Cilium pkg/identity/identity.go, IPIdentityPair).
