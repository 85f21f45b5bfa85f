"""What the hub stores: nodes, presences, adverts; in SQLite or PostgreSQL."""
