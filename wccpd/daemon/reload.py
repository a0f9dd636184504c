"""Reads the configuration file of a running daemon again, on SIGHUP or by the control API: reload, confirm, roll back.

A reload takes all of the file or nothing; whatever keeps it from that is in the answer and in the log. With `confirm`
it is on trial: unless it is confirmed in time, or if the daemon ends before, what was in force before is in force
again (`daemon.unconfirmed` has the rule for a start). One reload at a time, and none while another is on trial.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

import config as configuration
from wccpd.daemon.change import NotTakenError
from wccpd.daemon.outlook import outlook, problems
from wccpd.daemon.unconfirmed import Content
from wccpd.difference import difference
from wccpd.status.control import VerbError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from wccpd.daemon.change import Changer
    from wccpd.daemon.notify import Notifier
    from wccpd.daemon.unconfirmed import Unconfirmed
    from wccpd.status.control import Answer

log = structlog.get_logger("wccpd.reload")

RETRY_SECONDS = 5.0
"""After a roll-back that was not taken."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A reload that has to be confirmed."""

    before: Content
    deadline: float
    """Monotonic seconds."""


class Reloader:
    """Owns the content in force, and what is on trial."""

    def __init__(
        self, file: Path, content: Content, changer: Changer, kept: Unconfirmed, notifier: Notifier
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            file: The daemon's configuration file.
            content: What is in force.
            changer: Brings the daemon to another.
            kept: What a start must know.
            notifier: Tells systemd.
        """
        self._file = file
        self._content = content
        self._changer = changer
        self._kept = kept
        self._notifier = notifier
        self._trial: Trial | None = None
        self._busy = asyncio.Lock()
        self._asked = False
        self._wake = asyncio.Event()
        self._working: asyncio.Task[object] | None = None
        self._refusal = "wccpd is still starting"
        self.unlike_file = ""
        """Why what is in force is not what the file holds, in words; empty when it is, as far as we know."""

    def request(self) -> None:
        """SIGHUP: reload, and say in the log alone what came of it."""
        self._asked = True
        self._wake.set()

    def seconds_left(self, now: float) -> float | None:
        """Until what is on trial is rolled back; None when nothing is."""
        return None if self._trial is None else max(0.0, self._trial.deadline - now)

    def stop(self) -> None:
        """Change nothing any more; what is halfway is abandoned, since everything of ours is about to go."""
        self._refusal = "wccpd is stopping"
        if self._working is not None:
            self._working.cancel()

    async def run(self) -> None:
        """Carry out requests, and roll back in time, until cancelled."""
        self._refusal = ""
        while True:
            await self._woken()
            try:
                await self._due()
            except VerbError:
                continue  # the log has it
            except Exception:
                # A bug of ours is no reason to end the daemon.
                log.exception("reload_failed")
                if self.seconds_left(time.monotonic()) == 0:
                    self._try_again()

    async def _due(self) -> None:
        if self._asked:
            self._asked = False
            await self.reload()
        elif self._trial is not None and time.monotonic() >= self._trial.deadline:
            await self._back("it was not confirmed in time")

    def _try_again(self) -> None:
        """Let what could not be rolled back be tried again after a pause."""
        if self._trial is not None:
            self._trial = Trial(self._trial.before, time.monotonic() + RETRY_SECONDS)
            self._wake.set()

    async def _woken(self) -> None:
        left = self.seconds_left(time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._wake.wait()
        self._wake.clear()

    # -- verbs -----------------------------------------------------------------------------------------

    async def plan(self, text: str | None = None, file: Path | None = None) -> Answer:
        """What a file would change; nothing is changed.

        Args:
            text: Its text; None: our own file's, as it is now.
            file: Its absolute name, where relative names in it start.
        """
        try:
            after = self._read() if text is None else _parsed(text, file or self._file)
        except configuration.ConfigError as error:
            return problems(error.problems)
        try:
            return await self._outlook(self._content, after)
        except NotTakenError as error:
            raise VerbError(str(error)) from error

    async def reload(self, confirm_seconds: float | None = None) -> Answer:
        """Take our file as it is now.

        Args:
            confirm_seconds: Roll back after so long, unless it is confirmed; None: take it for good.

        Raises:
            VerbError: It is not taken, everything is as before; the text says why, all reasons at once.
        """
        try:
            async with self._turn():
                return await self._reload(confirm_seconds)
        except (NotTakenError, configuration.ConfigError) as error:
            log.error("reload_refused", reason=str(error))
            raise VerbError(str(error)) from error

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One change at a time, and systemd knows of it."""
        if self._busy.locked():
            raise NotTakenError("another reload is under way")
        async with self._busy:
            if self._refusal:
                raise NotTakenError(self._refusal)
            self._working = asyncio.current_task()
            self._notifier.reloading()
            try:
                yield
            finally:
                self._working = None
                self._notifier.send("READY=1")

    async def _reload(self, confirm_seconds: float | None) -> Answer:
        if self._trial is not None:
            raise NotTakenError(
                "a reload waits to be confirmed: `wccpctl confirm` or `wccpctl rollback` first"
            )
        before, after = self._content, self._read()
        refusals = difference(before.config, after.config).refusals
        if refusals:
            raise NotTakenError(*refusals)
        answer = await self._outlook(before, after)
        if confirm_seconds is None:
            await self._changer.change(after.config)
            self._forget()
        else:
            await self._try(before, after)
            self._trial = Trial(before, time.monotonic() + confirm_seconds)
            self._wake.set()
        self._content, self.unlike_file = after, ""
        log.info(
            "reloaded", config=str(self._file), changes=answer["changes"], confirm_seconds=confirm_seconds
        )
        return {**answer, "confirm_within_seconds": confirm_seconds}

    async def _try(self, before: Content, after: Content) -> None:
        """Take a configuration that no start takes until it is confirmed."""
        try:
            noted = self._kept.read()
            self._kept.write(before, after)
        except OSError as error:
            raise NotTakenError(f"cannot write {self._kept.path}: {error.strerror}") from error
        try:
            await self._changer.change(after.config)
        except Exception:
            self._kept.put_back(noted)
            raise

    async def confirm(self) -> Answer:
        """Keep what is on trial.

        Raises:
            VerbError: Nothing is, or it is being rolled back.
        """
        if self._trial is None or self._busy.locked():
            raise VerbError("nothing waits to be confirmed, or it is being rolled back just now")
        try:
            self._kept.forget()
        except OSError as error:
            raise VerbError(f"cannot remove {self._kept.path}: {error.strerror}") from error
        self._trial = None
        self._wake.set()
        log.info("reload_confirmed")
        return {"confirmed": True}

    async def rollback(self) -> Answer:
        """Go back at once from what is on trial.

        Raises:
            VerbError: Nothing is, or something does not take the former settings.
        """
        if self._trial is None:
            raise VerbError("nothing waits to be confirmed, so there is nothing to go back from")
        return await self._back("an operator said so")

    async def _back(self, why: str) -> Answer:
        trial = self._trial
        assert trial is not None
        try:
            async with self._turn():
                answer = await self._outlook(self._content, trial.before)
                await self._changer.change(trial.before.config)
        except NotTakenError as error:
            log.error("not_rolled_back", reason=str(error), again_in_seconds=RETRY_SECONDS)
            self._try_again()
            raise VerbError(str(error)) from error
        self._content, self._trial = trial.before, None
        self.unlike_file = f"what {self._file} held was rolled back: {why}"
        self._wake.set()
        log.warning("rolled_back", reason=why, config=str(self._file))
        return answer

    async def _outlook(self, before: Content, after: Content) -> dict[str, object]:
        found = difference(before.config, after.config)
        # Of what is refused the kernel could not be asked: its objects might go by other names.
        return outlook(found, None if found.refusals else await self._changer.prospect(after.config))

    def _forget(self) -> None:
        try:
            self._kept.forget()
        except OSError as error:
            log.error("not_forgotten", reason=f"cannot remove {self._kept.path}: {error.strerror}")

    def _read(self) -> Content:
        return _parsed(configuration.read(self._file), self._file)


def _parsed(text: str, file: Path) -> Content:
    return Content(configuration.parse(text, file=str(file), directory=file.parent), text)
