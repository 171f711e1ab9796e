"""What a run leaves as data: scores, model cards, report.json, comparison tables, privacy spent."""
