"""Pages on this node's disk: where those go that leave memory, and how they come back. One thread."""

from __future__ import annotations

import logging
import os
import threading
import time

import numpy as np

from tent_core import _native
from tent_core.config import Config
from tent_core.engine import Engine
from tent_core.errors import ConfigError, DirectoryUnavailable, IoFailed, NameInUse, NoSpace
from tent_core.store.batch import Batch, Digests, Statuses
from tent_core.store.context import Context, Deadline
from tent_core.store.reason import PageStatus
from tent_core.store.retire import retire
from tent_core.store.writer import Writer, digest_array

__all__ = ["FILE", "Ssd", "open_disk"]

log = logging.getLogger("tent.store")
FILE = "tent-pages"  # in store.ssd_path
_LARGEST_EXTENT = 16 << 20
_BLOCK = 4096
_BATCH = 64
_RETIRED = 256  # records in one directory operation
_TEND_S = 1.0
_TRIES = 3  # to have a page in memory for long enough to copy it
_SHARE = 8  # of the memory so much is filled from disk at a time
_MOST_BYTES = 64 << 20


def open_disk(engine: Engine, config: Config, daemon: bool) -> _native.NativeDisk | None:
    """The file in ``store.ssd_path``, with what an earlier process left in it. None: no folder is named, or its disk is
    full or broken (logged: serving goes on without). Raises ConfigError, VersionMismatch, InvalidArgument (the file is
    not ours), PermissionDenied; and NameInUse for a `tent node` whose file another process has."""
    if not config.store.ssd_path or not config.store.capacity:
        return None
    base = min(config.store.extent, _LARGEST_EXTENT, config.store.ssd_capacity // 4) // _BLOCK * _BLOCK
    # A page as large as an extent in memory fits.
    extent = (base + base // 128 + 3 * _BLOCK) // _BLOCK * _BLOCK
    try:
        os.makedirs(config.store.ssd_path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"store.ssd_path = {config.store.ssd_path!r} cannot be used: {error.strerror}: name a folder that this "
            "process may write to"
        ) from error
    path = os.path.join(config.store.ssd_path, FILE)
    try:
        return _native.NativeDisk(
            path, config.store.ssd_capacity, extent, engine.name, engine.incarnation, config.store.ssd_io
        )
    except (NoSpace, IoFailed) as error:
        log.error("%s; no pages are kept on disk until this process starts again", str(error))
    except NameInUse as error:
        if daemon:
            raise
        log.warning("%s; this process keeps no pages on disk", str(error))
    return None


class Ssd:
    """Brings pages up for readers. ``close`` joins the thread and writes what is still to be written."""

    def __init__(self, context: Context, disk: _native.NativeDisk, writer: Writer) -> None:
        self._context = context
        self._writer = writer
        self.disk = disk
        self._timeout = context.config.store.ssd_timeout_ms / 1000
        self._chunk = max(1, min(_MOST_BYTES, context.native.stats()["capacity"] // _SHARE))
        disk.give_to(context.native)
        context.metrics.attach_native(lambda: {"store": {"ssd": disk.stats()}})
        self._thread = threading.Thread(target=self._run, name="tent-ssd", daemon=True)

    @staticmethod
    def open(context: Context, writer: Writer, daemon: bool) -> Ssd | None:
        """As `open_disk`."""
        disk = open_disk(context.engine, context.config, daemon)
        return None if disk is None else Ssd(context, disk, writer)

    def start(self) -> None:
        try:
            self.confirm()
        except DirectoryUnavailable:
            self._context.lost_directory()
        self._thread.start()

    def close(self) -> None:
        self._context.native.stop_waiting()
        if self._thread.is_alive():
            self._thread.join()
        self._context.ssd = None  # it holds the context
        self.disk.close()

    def stats(self) -> dict[str, int | str]:
        return {**self.disk.stats(), "io": self.disk.backend}

    # ---- after a restart

    def confirm(self) -> None:
        """Of the namespaces that were found in the file the directory is asked how often they were cleared: until then
        their pages are not found. Raises DirectoryUnavailable."""
        context = self._context
        for space, generation in self.disk.unconfirmed():
            now = context.directory.generation(space)
            if now < generation:
                context.directory.keep_generation(space, generation)
            context.saw_generation(space, max(now, generation))
            context.native.confirm_space(space, max(now, generation))
            context.wake.set()

    def retire(self, deadline: float) -> None:
        """This node leaves: its pages stay in the file, and their records leave the directory, as far as that goes
        until ``time.monotonic()`` passes ``deadline``; the others are left to whoever meets them."""
        digests = self.disk.digests()
        for start in range(0, len(digests), _RETIRED):
            if time.monotonic() > deadline:
                return
            items = self.disk.records(np.ascontiguousarray(digests[start : start + _RETIRED]))
            try:
                retire(self._context.directory, items)
            except DirectoryUnavailable:
                self._context.lost_directory()
                return

    # ---- pages up

    def get(self, batch: Batch, check: bool, deadline: Deadline) -> Statuses:
        """Pages that were not in memory, from the disk by way of memory. A status per page."""
        status = np.full(len(batch), PageStatus.ABSENT, dtype=np.uint8)
        found, lengths = self._context.native.find(batch.digests)
        there = np.flatnonzero(found == PageStatus.HIT)
        ends = np.cumsum(lengths[there].astype(np.int64))
        start = 0
        while start < len(there):
            if deadline.passed:
                status[there[start:]] = PageStatus.DEADLINE
                break
            before = int(ends[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + self._chunk, side="right")))
            rows = there[start:end]
            for _ in range(_TRIES):
                status[rows] = self.stage(np.ascontiguousarray(batch.digests[rows]), deadline.left)
                up = rows[status[rows] == PageStatus.HIT]
                if not len(up):
                    break
                some = batch.rows(up)
                status[up] = self._context.native.get(some.digests, some.addresses, some.lengths, check)
                rows = up[status[up] == PageStatus.ABSENT]  # upkeep took them away again in between
                if not len(rows) or deadline.passed:
                    break
            start = end
        self._context.wake.set()  # their records are to lead to memory
        return status

    def stage(self, digests: Digests, seconds: float) -> Statuses:
        """HIT for pages that are in memory now, or why they are not."""
        native = self._context.native
        patience = min(seconds, self._timeout)
        if native.free_extents < 2:
            self._writer.reclaim()
        status: Statuses = native.stage(digests, patience)
        for _ in range(self._writer.low_water + 2):
            full = np.flatnonzero(status == PageStatus.NO_SPACE)
            if not len(full) or not self._writer.reclaim():
                break
            status[full] = native.stage(np.ascontiguousarray(digests[full]), patience)
        return status

    def _run(self) -> None:
        native = self._context.native
        while native.wait_stage(_TEND_S):
            try:
                wanted = native.take_stage(_BATCH)
                if wanted:
                    self.stage(digest_array(wanted), self._timeout)
                    self._context.wake.set()
                self.disk.tend()
                native.scrub_disk_some(self._timeout)
            except Exception:
                log.exception("bringing pages up from the disk failed; it goes on")
