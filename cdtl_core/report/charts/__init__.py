"""Charts as values, drawn as SVG in pages."""
