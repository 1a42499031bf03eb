"""The machine a process runs on: sockets, cores, caches, memory; what of them it may use."""
