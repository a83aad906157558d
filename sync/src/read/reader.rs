//! One cluster's etcd, as long as it is configured.
