//! Labels as one string, which names an identity (Cilium pkg/labels/labels.go): `source:key=value;`, sorted by key.
