"""Clean staged events: rules, duplicates, bots, quarantine, and the checks of each day."""
