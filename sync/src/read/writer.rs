//! What the table has changed, into the ipcache.
