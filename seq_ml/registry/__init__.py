"""Registry: versions of models, the champion pointer, promotion and rollback."""
