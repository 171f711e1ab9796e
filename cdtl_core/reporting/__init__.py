"""What a person reads: the report's data, and the table of a terminal."""
