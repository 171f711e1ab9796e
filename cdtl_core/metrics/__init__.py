"""AUROC, log-loss, calibration, curves and the operating point, with intervals over patients."""
