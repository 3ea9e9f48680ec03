"""What an operation of Veo's says, in the forms of either of its interfaces."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from rushes.adapters import base
from rushes.adapters.base import Broken, Output
from rushes.adapters.google_errors import Status, failure_of
from rushes.faults import Fault


class Video(Struct):
    """A clip: where it is, or the clip itself."""

    uri: str | None = None
    gcsUri: str | None = None  # noqa: N815 - this and others as Google names them
    bytesBase64Encoded: msgspec.Raw = msgspec.Raw()  # noqa: N815 - left where it is
    encodedVideo: msgspec.Raw = msgspec.Raw()  # noqa: N815
    mimeType: str | None = None  # noqa: N815

    def output(self, number: int) -> Output | None:
        """Where it is; None where nothing is said."""
        here = len(memoryview(self.bytesBase64Encoded)) > 2 or len(memoryview(self.encodedVideo)) > 2
        url = self.gcsUri or self.uri or (f"inline:{number}" if here else "")
        return Output(url, self.mimeType or "video/mp4") if url else None


class Sample(Struct):
    """A clip as the Gemini API has it."""

    video: Video | None = None


class Result(Struct):
    """What was made, and how much of it was withheld."""

    videos: list[Video] | None = None
    generatedSamples: list[Sample] | None = None  # noqa: N815
    generateVideoResponse: Result | None = None  # noqa: N815
    raiMediaFilteredCount: int | None = None  # noqa: N815
    raiMediaFilteredReasons: list[str] | None = None  # noqa: N815

    def outputs(self) -> tuple[Output, ...]:
        """All clips, in the form of either interface."""
        videos = self.videos or [sample.video or Video() for sample in self.generatedSamples or []]
        found = [video.output(number) for number, video in enumerate(videos)]
        return tuple(output for output in found if output)


class Started(Struct):
    """All that the paid answer must hold."""

    name: str


class Operation(Started):
    """How it is."""

    done: bool | None = None  # missing while it runs
    response: Result | None = None
    error: Status | None = None

    def outcome(self, who: str) -> base.Outcome:
        """What that means, in the name of a provider."""
        if not self.done:
            return base.Unfinished()
        if self.error:
            return base.Stopped() if self.error.code == 1 else Broken(failure_of(who, self.error))
        result = self.response or Result()
        result = result.generateVideoResponse or result
        outputs, filtered = result.outputs(), result.raiMediaFilteredCount or 0
        why = base.plain(" ".join(result.raiMediaFilteredReasons or []))
        if outputs:
            return base.Done(outputs, filtered=filtered, metadata={"filtered": why} if filtered else {})
        if filtered:
            return Broken(Fault("moderated", f"{who} withheld the clip: {why}"), billed="no")
        return Broken(Fault("bad_answer", f"{who} finished without a clip."), billed="yes")
