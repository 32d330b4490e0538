"""A language model behind an OpenAI-compatible API, asked one short question at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safekv.detect.judge.question import ANSWER_TOKENS
from safekv.errors import ConfigError, DetectorError


class Endpoint:
    """Asks `model` at `url`; raises `DetectorError` whatever goes wrong, and never quotes text.

    One connection, greedy decoding, no retry. For one thread.
    """

    def __init__(self, url: str, model: str, key: str | None = None) -> None:
        """Raises `ConfigError` without the package `httpx`, or for a URL that is none."""
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise ConfigError(
                "the judge needs the package httpx", "pip install 'safekv[judge]'"
            ) from error
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"detect.judge_url is {url!r}", "use a URL such as http://127.0.0.1:8000/v1"
            )
        self.model = model
        headers = {"authorization": f"Bearer {key}"} if key else {}
        # Proxies of the environment must not see prompts that stay inside otherwise.
        self._client = httpx.Client(base_url=url.rstrip("/"), headers=headers, trust_env=False)

    def ask(self, text: str, timeout_s: float) -> str:
        """The model's answer to `text`, within `timeout_s`. Raises `DetectorError`."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0,
        }
        try:
            answer = self._client.post("/chat/completions", json=body, timeout=timeout_s)
            answer.raise_for_status()
            said: Any = answer.json()["choices"][0]["message"]["content"]
        except Exception as error:  # its text may quote the question
            raise DetectorError(f"the judge gave no answer ({type(error).__name__})") from None
        if not isinstance(said, str):
            raise DetectorError("the judge's answer is no text")
        return said

    def close(self) -> None:
        self._client.close()


def read_key(path: Path | None) -> str | None:
    """The key that the file `path` holds, which nobody but its owner may read."""
    if path is None:
        return None
    from safekv.privatefile import PrivateFile

    _, raw = PrivateFile(path, "set detect.judge_key_file").read()
    if raw is None or not raw.strip():
        raise ConfigError(f"judge key file {path} holds no key", "write the key into it")
    return raw.decode(errors="replace").strip()
