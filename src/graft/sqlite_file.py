"""SQLite's files: whether one has its end, and which path of one an address of a database can name.

SQLite reads zeros in place of the rest of a last page, and says nothing.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
"""Another character, in an address."""

PATIENCE_SECONDS = 5.0  # for a process that is just writing


def objection(path: object) -> str | None:
    """Why an address cannot name `path`, in words that follow it; None if it can.

    Such a database would lie elsewhere: what follows a `?` is no part of the path, and `%20` is a space.
    """
    found = "?" if "?" in str(path) else (escape := ESCAPE.search(str(path))) and escape[0]
    return f"{found} means something else in the address of a database; allowed is a path without it" if found else None


def is_cut_off(file: Path) -> bool:
    """Whether `file` is shorter than it says. One that is not there, is empty, or is busy for long, is not.

    Raises:
        sqlite3.DatabaseError: if it is no database, or SQLite itself finds damage.
    """
    if not file.is_file() or not file.stat().st_size:
        return False
    uri = f"file:{quote(str(file))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE_SECONDS, isolation_level=None)) as opened:
        try:
            opened.execute("BEGIN")
            # From the first read on nobody else may write to the file, and so change its length.
            opened.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            asked = ("page_count", "page_size", "journal_mode")
            pages, page_bytes, mode = (opened.execute(f"PRAGMA {name}").fetchone()[0] for name in asked)
        except sqlite3.OperationalError:
            return False  # who opens it for more than a look finds out why, and waits longer
        # In its other mode a part of the pages is in another file.
        return bool(mode != "wal" and file.stat().st_size < pages * page_bytes)
