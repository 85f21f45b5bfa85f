"""Two nodes on loopback with a stub engine: what asking and serving promise."""
