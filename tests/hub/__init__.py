"""Hubs on loopback: what they promise their nodes, and what they refuse."""
