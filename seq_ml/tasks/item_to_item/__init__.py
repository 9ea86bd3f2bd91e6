"""Items beside an item: bought together, or instead."""
