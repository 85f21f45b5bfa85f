"""A byte stream to a peer, however it is reached."""
