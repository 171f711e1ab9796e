"""The command line; typer and rich are used only here."""
