"""Tasks: what is predicted, from which examples, by which models, for which table."""
