//! Lines of the ipcache that clusters have made.
