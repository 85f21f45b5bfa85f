"""DPTP v1.5 and our extensions, as data: no sockets, clocks, files or asyncio."""
