"""cdtl: federated cross-dimensional transfer learning for hospitals with different imaging modalities."""

__version__ = "0.1.0"
