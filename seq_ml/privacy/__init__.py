"""Privacy at the door: personal columns, pseudonyms, and the people who were erased."""
