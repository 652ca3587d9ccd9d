"""The database: sessions and transactions over SQLite or PostgreSQL, and the migrations of its tables."""
