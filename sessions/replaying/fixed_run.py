"""What cannot be done to a run that has happened."""

from __future__ import annotations

from moe_watch.routing.events import PerturbationForm


class FixedRun:
    """The part of `moe_watch.sessions.source.Source` that needs a model or would change the recording: nothing."""

    @property
    def loading(self) -> str:
        """Nothing: no model is loaded."""
        return ""

    def perturb(self, text: str, *, form: PerturbationForm = "raw", at_once: bool = False) -> None:
        """Nothing: what is recorded has happened."""

    def set_tap(self, on: bool) -> None:
        """Nothing: what is recorded has happened."""

    def set_multistep(self, on: bool) -> None:
        """Nothing: what is recorded has happened."""

    def prompt(self, text: str) -> None:
        """Nothing: there is no model."""

    def set_recording(self, on: bool) -> None:
        """Nothing: it is a recording."""

    def mark(self, note: str) -> None:
        """Nothing: the file stays as it is."""

    def restart(self) -> None:
        """Nothing: there is no worker."""
