"""Twelve small businesses as their teams would hand them over: raw files and a mapping each.

`SHAPES[name].make()` returns the files by name, `shape.write` puts them into a folder. All is
seeded. Each log holds what an honest model can find: customers who come at their own rhythm, more
regularly than chance, and fade; tastes that last, shared by those who like the same things.
"""

from tests.journeys.shapes import logs, services, shops

SHAPES = logs.SHAPES | services.SHAPES | shops.SHAPES
