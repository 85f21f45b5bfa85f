"""The running peer: it asks, it serves, and it tells every face what it does."""
