"""Settings of the methods, one file for each: frozen, and read by their allocators alone."""
