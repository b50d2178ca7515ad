//! Compiles a graph to steps over one arena and runs it.
