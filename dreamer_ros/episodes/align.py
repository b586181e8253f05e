"""Tables for a terminal."""

from __future__ import annotations


def align(rows: list[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    """Lines of cells, of which the columns in `left` begin at one place and the others end there."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        '  '.join(
            cell.ljust(width) if k in left else cell.rjust(width) for k, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
