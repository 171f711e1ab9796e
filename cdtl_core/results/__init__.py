"""Results of a run as data: scores, model cards, report.json, comparison tables, privacy spent."""
