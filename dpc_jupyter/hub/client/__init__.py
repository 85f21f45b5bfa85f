"""A node at its hub: logging in, being found, calling others. Needs nothing of the extra `hub`."""
