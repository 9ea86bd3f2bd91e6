"""Source mappings: a user's columns and values onto the contract, one YAML per source."""
