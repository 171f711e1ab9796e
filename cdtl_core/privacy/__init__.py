"""Differential privacy: DP-SGD, accounting, the ledger, canaries and what an audit certifies."""
