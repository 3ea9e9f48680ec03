import asyncio

import rushes


async def main() -> None:
    async with rushes.open("studio") as studio:
        job = await studio.generate("a lake at dawn", model="local", duration_seconds=5)
        async for update in job.updates():
            print(update.phase, update.progress)
        take = (await job.result()).videos[0]
        print(take.path)


asyncio.run(main())
