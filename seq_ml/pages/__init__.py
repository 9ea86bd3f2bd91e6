"""Pages for people: one palette, one style sheet, charts as SVG."""
