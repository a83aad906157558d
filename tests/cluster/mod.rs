//! Hosts that share identities and addresses through a real etcd.
