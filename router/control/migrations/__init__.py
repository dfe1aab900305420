"""alembic migrations, run by the router at start (`router.control.database.migrate`)."""
