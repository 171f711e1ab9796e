"""Hospitals for real: the coordinator's door and a site's, and the processes behind them."""
