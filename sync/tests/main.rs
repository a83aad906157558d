//! The command `cilmark-sync` by itself. What it does to hosts is tested with the datapath, in `tests/cluster/` of cilmark.
