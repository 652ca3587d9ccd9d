"""Limits searches in names to a few at a time, in turns and in time: each may read every name of a project."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog.people import tenancy
from app.database.sessions import Database
from app.errors import SearchTimeout, TooManySearches
from app.viewer import Viewer

# Maximum duration of a search in seconds, searches at a time per process, and seconds that one waits for its turn.
_SECONDS = 2.0
_AT_ONCE = 2
_PATIENCE_SECONDS = 5.0
# Maximum waiting searches per caller; more are refused immediately.
_WAITING = 16

_FIELD = ("filter", "nameContains")


@dataclass(eq=False, slots=True)
class _Search:
    subject: str
    project_id: str
    turn: asyncio.Future[None]


@dataclass(slots=True)
class Searches:
    """The searches of a process. Those of one caller, and those in one project, run one after the other.

    A caller who searches all the time therefore leaves room for other tenants. Of the searches that may run, the
    oldest starts first.
    """

    _running: list[_Search] = field(default_factory=list)
    _waiting: list[_Search] = field(default_factory=list)

    @asynccontextmanager
    async def session(
        self, database: Database, viewer: Viewer, project_id: str, *, admitted: bool = False
    ) -> AsyncIterator[AsyncSession]:
        """A session for one search. Cancelling the task also stops the statement.

        `admitted` says that an earlier search of the same operation has proved that the viewer may see the project.
        Raises NotFound when they may not, SearchTimeout, TooManySearches.
        """
        if not admitted:
            async with database.read() as session:
                # An outsider must not use up the turns of a project.
                await tenancy.reader_role(session, viewer, project_id)
        async with self._turn(viewer.subject, project_id):
            try:
                async with database.read_within(_SECONDS) as session:
                    yield session
            except TimeoutError:
                raise SearchTimeout(
                    f"The search was stopped after {_SECONDS:g} s.",
                    field=_FIELD,
                    hint="Filter by createdAfter or createdBefore as well, and order by CREATED_AT.",
                ) from None

    @asynccontextmanager
    async def _turn(self, subject: str, project_id: str) -> AsyncIterator[None]:
        if sum(search.subject == subject for search in self._waiting) >= _WAITING:
            raise TooManySearches(
                f"{_WAITING} of your searches are waiting.", field=_FIELD, hint="Wait for some of them to finish."
            )
        search = _Search(subject, project_id, asyncio.get_running_loop().create_future())
        self._waiting.append(search)
        self._start_next()
        try:
            await self._wait(search)
            yield
        finally:
            (self._running if search in self._running else self._waiting).remove(search)
            self._start_next()

    async def _wait(self, search: _Search) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await search.turn
        except TimeoutError:
            raise TooManySearches(
                f"Other searches are running; this one was not started within {_PATIENCE_SECONDS:g} s.",
                field=_FIELD,
                hint="Try again in a few seconds.",
            ) from None

    def _start_next(self) -> None:
        while len(self._running) < _AT_ONCE and (search := self._next()) is not None:
            self._waiting.remove(search)
            self._running.append(search)
            if not search.turn.done():
                search.turn.set_result(None)

    def _next(self) -> _Search | None:
        subjects = {search.subject for search in self._running}
        projects = {search.project_id for search in self._running}
        free = (s for s in self._waiting if s.subject not in subjects and s.project_id not in projects)
        return next(free, None)
