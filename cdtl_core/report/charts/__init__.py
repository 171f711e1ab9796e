"""Charts as values, drawn as SVG in pages and as PNG for studies."""
