"""Serve a model on this machine and query it like any OpenAI client: python
13_serve_and_ask.py CHECKPOINT image.png
"""

import base64
import json
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen


def ask(url: str, question: str, image: Path) -> dict:
    data_url = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": data_url}},
        {"type": "text", "text": question},
    ]
    body = {"model": "mine", "messages": [{"role": "user", "content": content}], "max_tokens": 32}
    with urlopen(
        Request(
            f"{url}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
    ) as answer:
        return json.load(answer)


def main(model: str, image: str) -> None:
    command = [sys.executable, "-m", "lingshu", "serve", model, "--name", "mine", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        # The first line has the address: "mine [digest] at http://127.0.0.1:PORT/v1. ..."
        url = next(
            word for word in server.stderr.readline().split() if word.startswith("http://")
        ).rstrip(".")
        try:
            reply = ask(url, "Is there a lesion?", Path(image))
            print(reply["choices"][0]["message"]["content"])
            print(
                f"[{reply['lingshu']['model']} {reply['lingshu']['digest'][:12]}]"
                f" {reply['lingshu']['notice']}"
            )
        finally:
            server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
