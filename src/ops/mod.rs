//! What can be done with endpoints, for everybody who does it: functions of a root that return what has come of it. No
//! arguments are parsed here, nothing is printed and nobody asked.

pub mod adoption;
