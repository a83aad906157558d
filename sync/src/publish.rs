//! What this host says in its cluster's etcd: its endpoints' addresses, who it is, and that it is there.
