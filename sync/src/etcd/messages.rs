//! The messages of etcd that are used (etcd api/etcdserverpb/rpc.proto, api/mvccpb/kv.proto), by hand: no protoc.
