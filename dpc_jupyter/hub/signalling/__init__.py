"""The hub's websockets: signals from one session to another, also across processes."""
