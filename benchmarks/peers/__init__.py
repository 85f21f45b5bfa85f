"""What is measured: our node, the floor (a TLS echo), and the ways by which labs reach an engine today."""
