"""The tools of `rushes.tools` over the Model Context Protocol: its official SDK, on stdin and stdout.

Needs the extra `mcp`. Videos are told as resource links; a client reads the file, or fetches it, itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import mcp_types as types
import msgspec
import structlog
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

from rushes.api.protocol import problem_of
from rushes.faults import RushesError
from rushes.tools import Answer, Refusal, Tool, Video, VideoJob, Watch
from rushes.units import Billed
from rushes.video import ending_of

INSTRUCTIONS: Final = (
    "Makes videos with many providers. generate_video answers at once with a job_id; wait_for_video_job waits for the "
    "video. A job is never lost: after a break, list_video_jobs shows it. Errors say in `billed` whether they cost "
    "anything."
)
STEP: Final = 0.01  # the protocol wants every progress to be more than the one before
_log = structlog.get_logger("rushes")


async def answer(tools: Mapping[str, Tool], release: str) -> None:
    """Answer one client on stdin and stdout until it closes them. What else is printed meanwhile goes to stderr."""
    server = server_of(tools, release)
    async with stdio_server() as (heard, said):
        await server.run(heard, said, server.create_initialization_options())


def server_of(tools: Mapping[str, Tool], release: str) -> Server:
    """The SDK's server over the tools."""

    async def listed(_: ServerRequestContext, _page: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_definition(tool) for tool in tools.values()])

    async def called(context: ServerRequestContext, asked: types.CallToolRequestParams) -> types.CallToolResult:
        tool = tools.get(asked.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"There is no tool {asked.name!r}: {', '.join(tools)}.")
        return _result(await _answer(tool, asked, context))

    return Server("rushes", version=release, instructions=INSTRUCTIONS, on_list_tools=listed, on_call_tool=called)


async def _answer(tool: Tool, asked: types.CallToolRequestParams, context: ServerRequestContext) -> Answer:
    try:
        return await tool.answer(asked.arguments, _progress(context))
    except Exception as error:  # noqa: BLE001 - the last line: a bug is told as one, and logged
        _log.error("tool.failed", tool=tool.name, exc_info=error)
        billed: Billed = "no" if tool.effect == "reads" else "unknown"
        return Refusal(error=problem_of(RushesError("Something went wrong in rushes itself.", billed=billed)))


def _progress(context: ServerRequestContext) -> Watch:
    told = 0.0

    async def watch(job: VideoJob) -> None:
        nonlocal told
        told = max(0.99 * (job.progress or 0), told + STEP)  # short of the total, so that there is room to rise
        await context.session.report_progress(told, 100.0, _words(job))

    return watch


def _words(job: VideoJob) -> str:
    percent = "" if job.progress is None else f" {job.progress} %"
    left = "" if job.eta_seconds is None else f", about {job.eta_seconds:.0f} s left"
    return f"{job.phase}{percent}{left}"


def _definition(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.schema,
        output_schema=tool.answer_schema,
        annotations=types.ToolAnnotations(
            read_only_hint=tool.effect == "reads", destructive_hint=tool.effect == "ends", open_world_hint=True
        ),
    )


def _result(told: Answer) -> types.CallToolResult:
    """The same twice, as the protocol wants it: as JSON, and as text for clients that know no other; and the links."""
    content = msgspec.to_builtins(told)
    if isinstance(told, Refusal):
        text = f"{told.error.detail} (code: {told.error.code}, billed: {told.error.billed})"
    else:
        text = msgspec.json.encode(told).decode()
    links = (
        [_link(told, number, video) for number, video in enumerate(told.videos)] if isinstance(told, VideoJob) else []
    )
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text), *links],
        structured_content=content,
        is_error=isinstance(told, Refusal),
    )


def _link(job: VideoJob, number: int, video: Video) -> types.ResourceLink:
    name = f"{job.job_id}-{number}.{ending_of(video.media_type)}"
    return types.ResourceLink(name=name, uri=video.uri, mime_type=video.media_type, size=video.size_bytes)
