"""Ask a model through the Model Context Protocol, as a desktop client does: python
15_ask_through_mcp.py CHECKPOINT image.png
"""

import asyncio
import base64
import sys
from pathlib import Path

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client


async def ask(model: str, question: str, image: Path) -> dict:
    data_url = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    server = StdioServerParameters(command=sys.executable, args=["-m", "lingshu", "mcp", model])
    # Other output of the server goes to this program's standard error.
    async with Client(stdio_client(server, errlog=sys.__stderr__ or sys.stderr)) as client:
        tools = (await client.list_tools()).tools
        print("tools:", ", ".join(tool.name for tool in tools))
        reply = await client.call_tool(
            "answer_question", {"question": question, "images": [data_url], "max_tokens": 32}
        )
        if reply.is_error or reply.structured_content is None:
            raise SystemExit(reply.content)
        return reply.structured_content


def main(model: str, image: str) -> None:
    result = asyncio.run(ask(model, "Is there a lesion?", Path(image)))
    print(result["answer"])
    print(f"[{result['model']} {result['model_digest'][:12]}] {result['notice']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
