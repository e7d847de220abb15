"""A response that is an error, in the form of either API."""

from typing import Any


class APIError(Exception):
    """Its status, and a message of one line.

    Args:
        kind: OpenAI's type of the error.
        param: the key of the request that is wrong.
        code: OpenAI's name of the error, for those that clients act upon.
        headers: of the response; an underscore in a name is a hyphen.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        **headers: str,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self._kind, self._param, self._code = kind, param, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def openai(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self._kind}
        return {"error": error | {"param": self._param, "code": self._code}}

    def ollama(self) -> dict[str, Any]:
        return {"error": self.message}
