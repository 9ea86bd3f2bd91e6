"""The last stage: champions' predictions become the tables that analysts read."""
