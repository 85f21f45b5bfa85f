"""The access file: what it may hold, what it decides, how it is edited."""
