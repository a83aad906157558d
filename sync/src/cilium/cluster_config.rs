//! What a cluster says of itself (Cilium pkg/clustermesh/types/types.go).
