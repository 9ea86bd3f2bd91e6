"""Inventory: how much of each item will be asked for, and what to order."""
