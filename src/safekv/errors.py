"""Every exception safekv raises on purpose.

Messages are lower case, name the thing and the value, and carry a hint that
says what to do. They never hold prompt text, token ids or keys.
"""

from __future__ import annotations


class SafeKVError(Exception):
    """The base of all errors raised on purpose.

    `exit_code` is what the command line exits with, `http_status` what the
    gateway answers, `retryable` whether the same call may succeed later.
    """

    exit_code: int = 1
    http_status: int = 500
    retryable: bool = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(SafeKVError):
    """A setting, file or flag is wrong; nothing was started."""

    exit_code = 2


class ModelError(ConfigError):
    """A model is missing, damaged or not supported."""


class AccessError(SafeKVError):
    """A credential is missing or unknown. Says the same for both."""

    http_status = 401


class RequestError(SafeKVError):
    """A client's request cannot be served as written.

    `param` names the offending field and `code` is OpenAI's machine-readable code.
    """

    exit_code = 2
    http_status = 400

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        param: str | None = None,
        code: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, hint)
        self.param = param
        self.code = code
        if status is not None:
            self.http_status = status


class OverloadedError(SafeKVError):
    """Too many requests wait already. `retry_after_s` is a constant, so it tells nothing."""

    http_status = 429
    retryable = True
    retry_after_s: int = 1


class CacheError(SafeKVError):
    """The prefix tree was asked for something impossible."""


class DetectorError(SafeKVError):
    """A detector failed. Never reaches a client: the blocks stay private."""


class CloakError(SafeKVError):
    """Something cannot be obfuscated or deobfuscated as asked."""


class VaultError(SafeKVError):
    """Something could not be sealed or opened. Opening says the same whatever the cause was."""


class EngineError(SafeKVError):
    """The engine could not start or failed while serving."""

    http_status = 503
    retryable = True


class IsolationBroken(SafeKVError):  # noqa: N818 - the name is the finding, not a kind of error
    """An isolation invariant failed. Sharing stops; the request fails."""
