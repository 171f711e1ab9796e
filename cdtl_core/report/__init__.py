"""What a person reads: pages and charts made from results."""
