"""Look at a host and its bench, and say of each thing that it is well, or what to do; nothing is changed."""
