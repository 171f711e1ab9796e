"""Detects labels that are typing errors of other labels."""

__all__ = ["is_typo"]

OPPOSITES = ("a", "ab", "an", "dis", "im", "in", "non", "un")  # normal and abnormal are two words
LONG = 8  # from this length on, two typing errors are still the same word


def is_typo(written: str, meant: str) -> bool:
    """Whether `written` is `meant` up to case, spaces, or a typing error or two; never a digit or prefix un-."""
    ours, theirs = (" ".join(word.casefold().replace("_", " ").split()) for word in (written, meant))
    if ours == theirs:
        return written != meant
    if any(ours == prefix + theirs or theirs == prefix + ours for prefix in OPPOSITES):
        return False
    if [c for c in ours if c.isdigit()] != [c for c in theirs if c.isdigit()] or min(len(ours), len(theirs)) < 4:
        return False
    return _distance(ours, theirs) <= (2 if min(len(ours), len(theirs)) >= LONG else 1)


def _distance(ours: str, theirs: str) -> int:
    """Return the number of insertions, deletions, substitutions and swaps of neighbours between two words."""
    rows = [list(range(len(theirs) + 1))]
    for i, letter in enumerate(ours, start=1):
        row = [i]
        for j, other in enumerate(theirs, start=1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == theirs[j - 2] and ours[i - 2] == other:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]
