"""Pages and charts made from results."""
