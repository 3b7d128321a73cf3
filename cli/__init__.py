"""The `rediff` command line: parses, calls one function, prints; nothing else."""
