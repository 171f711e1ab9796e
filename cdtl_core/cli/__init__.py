"""The command line; only this package uses typer and rich."""
