"""Chooses the adapter of each port by the settings; no other module does.

Loads an adapter for Redis or S3 when it is chosen: both take a while, and the embedded mode needs neither.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from dramatiq import Broker

from app.adapters.folder.store import FolderStore
from app.adapters.messaging.dramatiq_queue import DramatiqQueue, local_broker
from app.adapters.messaging.local_host_bells import LocalHostBells
from app.adapters.messaging.local_wakeups import LocalWakeups
from app.adapters.messaging.no_queue import NoQueue
from app.lifecycle import OF_HOSTS
from app.models import Event, Job
from app.ports import HostBells, JobQueue, Wakeups
from app.reserve import Reserve
from app.settings import Settings

if TYPE_CHECKING:
    from app.adapters.s3.store import S3Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Messaging:
    """How a gateway's processes notify each other of jobs and news.

    Workers receive messages from `broker`; hosts listen to `bells`.
    """

    broker: Broker
    queue: JobQueue
    wakeups: Wakeups
    bells: HostBells = field(default_factory=LocalHostBells)

    def announce(self, jobs: list[Job], events: list[Event]) -> None:
        """Notify workers of jobs, and watchers of events. Called after every commit."""
        for job in jobs:
            if job.host_id is not None:
                self.bells.ring(job.host_id)
            elif job.kind not in OF_HOSTS:
                self.queue.wake(job.kind)
        if events:
            self.wakeups.feed_grew()


@contextmanager
def messaging(settings: Settings, *, works: bool = True) -> Iterator[Messaging]:
    """Connections that are closed at the end of the block; `works` is true when this process runs workers.

    Without Redis, a process notifies only itself. Raises SettingsError.
    """
    if settings.broker_url is None:
        broker = local_broker()
        yield Messaging(broker, DramatiqQueue(broker) if works else NoQueue(), LocalWakeups())
        return
    from app.adapters.messaging.redis_host_bells import RedisHostBells
    from app.adapters.messaging.redis_queue import PatientBroker, RedisQueue
    from app.adapters.messaging.redis_wakeups import RedisWakeups

    url = settings.broker_url.get_secret_value()
    with ExitStack() as stack:
        patient = PatientBroker(url)
        queue, wakeups, bells = RedisQueue(patient), RedisWakeups(url), RedisHostBells(url)
        for channel in (queue, wakeups, bells):
            stack.callback(channel.close)
        yield Messaging(patient, queue, wakeups, bells)


@dataclass(frozen=True, slots=True)
class Storage:
    """The object store, and the only place that decides what depends on its kind."""

    store: "FolderStore | S3Store"

    def by_kind(self, folder: Callable[[FolderStore], T], bucket: "Callable[[S3Store], T]") -> T:
        """The result of the function for this kind of store.

        The gateway serves the bytes of a folder itself, and converts them in place. Clients reach a bucket without it,
        so it asks for what has arrived.
        """
        return folder(self.store) if isinstance(self.store, FolderStore) else bucket(self.store)

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def storage_of(settings: Settings) -> Storage:
    """The object store that the settings name, which the caller closes.

    Raises StoreUnavailable when its folder can't be created.
    """
    if settings.s3 is not None:
        from app.adapters.s3.store import S3Store

        return Storage(S3Store(settings.s3, settings.object_store_public_url, settings.upload_key))
    return Storage(FolderStore(settings.objects_path, settings.secret_bytes, reserve=reserve_of(settings)))


def reserve_of(settings: Settings) -> Reserve | None:
    """The disk space for deletions, where the database is a file in the data folder; None elsewhere."""
    if settings.database_url is not None or not settings.reserve_bytes:
        return None
    return Reserve(settings.data.absolute() / "reserve", settings.reserve_bytes)


def needs_data_folder(settings: Settings) -> bool:
    """Whether a process stores something in the data folder. With every place and secret set, it stores nothing."""
    keeps_objects = settings.s3 is None and settings.objects_path.is_relative_to(settings.data.absolute())
    keeps_secret = settings.secret is None and (settings.jwt_issuer is None or settings.s3 is None)
    return settings.database_url is None or keeps_objects or keeps_secret
