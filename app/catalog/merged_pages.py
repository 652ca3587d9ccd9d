"""Pages of what lies in several places of an index: each place is read in order, and no further than the page goes.

An index over (kind, key, id) has the rows of one kind in the order of (key, id), those of several kinds not. Asked for
several at once, databases read all of their rows to sort them, or walk another index past all others. So each kind is
a query of its own, and what they give is merged: SQLite runs it as MERGE (UNION ALL), PostgreSQL as Merge Append.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import CompoundSelect, Select, column, literal_column, select, union_all

from app.catalog.pages import Window, between, first_of


def merged_ids(queries: Iterable[Select[Any]], key: Any, id_: Any, window: Window, *, descending: bool) -> Select[Any]:
    """The ids of a page's rows, and of one more, out of one or more queries of the columns `key` and `id_`."""
    # PostgreSQL plans each part by itself: without its own order and limit it reads all of a kind. SQLite takes these
    # in a subquery alone; and to name its columns once more would cost as much as to run it.
    pages = (
        first_of(between(query, key, id_, window, descending=descending), key, id_, window, descending=descending)
        for query in queries
    )
    parts: Iterable[Select[Any]] = (select(literal_column("*")).select_from(page.subquery()) for page in pages)
    union: CompoundSelect[Any] = union_all(*parts)
    merged = first_of(union, column(key.name), column(id_.name), window, descending=descending).subquery()
    return select(column(id_.name, id_.type)).select_from(merged)
